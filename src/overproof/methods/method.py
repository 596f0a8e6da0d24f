"""What a method is: a frozen value that, shown one batch, yields the losses the training loop descends."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from overproof.data.images import Batch
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import Classifier
from overproof.processes import WHOLE, Part

Terms = dict[str, Tensor]
"""Named, weighted scalars; their sum is descended."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a method sees of one batch: pixels ``x`` [N, C, H, W] in [0, 1], labels ``y`` [N], networks, memory.

    ``state`` is what this method remembers between batches (checkpointed; assign to its keys). ``progress`` is 0 at the
    first update of the run and 1 at the last. Teachers are frozen, in eval mode; auxiliary models learn too.
    ``part`` says which rows of the batch are here where several processes share it: a figure of the whole batch, other
    than a term, is ``part.mean``, ``part.least`` or ``part.greatest``, and memory is the same in all of them.
    ``weights`` are what a wrapping method weighs examples by, ``[N]``, asked for after the search; a method that is
    ``weighable`` takes ``mean`` of the losses that a robust teacher's answers give.
    """

    x: Tensor
    y: Tensor
    student: Classifier
    teachers: Mapping[str, Classifier] = field(default_factory=dict)
    auxiliary_models: Mapping[str, Classifier] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    part: Part = WHOLE
    weights: Callable[[], Tensor] | None = None

    def mean(self, losses: Tensor) -> Tensor:
        """Return the mean of per-example losses ``[N]`` from a teacher's answers, weighed as a wrapper asks for."""
        return losses.mean() if self.weights is None else (self.weights() * losses).mean()


class Method(ABC):
    """A way to teach a student. Subclasses are keyword-only frozen dataclasses with a ``kind``, one per file.

    The docstring of a subclass is its card: formula, paper, what the official code does differently, deviations.
    """

    kind: str
    roles: ClassVar[tuple[str, ...]] = ("robust",)
    """The teachers it listens to; a recipe names exactly these."""
    auxiliary_models: ClassVar[tuple[str, ...]] = ()
    """Further networks of the student's architecture that are trained beside it and then left behind."""
    weighable: ClassVar[bool] = False
    """Whether the losses from its robust teacher are weighed by ``Step.mean``."""
    bounds_student: ClassVar[bool] = False
    """Whether it bounds the student's graph of operators alone, and need not ask the student itself."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings as a recipe would write them; ``paper`` reproduces the official code, its quirks included."""

    @property
    def updates(self) -> int:
        """How many losses it yields, and so how many optimiser steps it takes, per batch."""
        return 1

    @property
    def bounds_teachers(self) -> bool:
        """Whether it reads the weights of its teachers, and does not only ask them."""
        return False

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return the memory at the start of a run, shaped and placed like this batch."""
        del like
        return {}

    def adapt_student(self, student: Architecture, teachers: Mapping[str, Classifier]) -> Architecture:
        """Return the architecture to train: the student's, or the student's with what this method must add to it."""
        del teachers
        return student

    @abstractmethod
    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield ``updates`` dictionaries of named, weighted scalars; the caller descends the sum of each."""
