"""A method around another method: what it leaves as the inner method has it."""

from collections.abc import Mapping

from torch import Tensor

from overproof.data.images import Batch
from overproof.methods.method import Method
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import Classifier


class WrappingMethod(Method):
    """A method with a ``base``, whose teachers, further networks, student, updates and memory are the base's.

    A subclass has the field ``base`` and says in ``losses`` what it adds to the base's.
    """

    base: Method

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """The base's."""
        return self.base.roles

    @property
    def auxiliary_models(self) -> tuple[str, ...]:  # type: ignore[override]
        """The base's."""
        return self.base.auxiliary_models

    @property
    def updates(self) -> int:
        """The base's."""
        return self.base.updates

    @property
    def bounds_teachers(self) -> bool:
        """Whether the base does."""
        return self.base.bounds_teachers

    def adapt_student(self, student: Architecture, teachers: Mapping[str, Classifier]) -> Architecture:
        """Return what the base asks for."""
        return self.base.adapt_student(student, teachers)

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return the base's memory."""
        return self.base.initial_state(like)
