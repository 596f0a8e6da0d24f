"""What a run's recipe names and is not here: the values as they were written, and a sentence for whoever needs more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.base import BaseAttack
from overproof.attacks.radius import Length, Norm, NormField, Radius
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.sources import Source, Split
from overproof.errors import InputError
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True, eq=False)
class UnloadedMethod(Method):
    """A method that was not imported: a trained network is used without it."""

    kind: str
    text: Mapping[str, Any]
    reason: str

    def losses(self, step: Step) -> Iterator[Terms]:
        """Raise ``InputError``."""
        raise InputError(self.reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnloadedAugment(Augment):
    """An augmentation that was not imported."""

    kind: str
    text: Mapping[str, Any]
    reason: str

    @override
    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        raise InputError(self.reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnloadedSource(Source):
    """Data whose code could not be imported."""

    kind: str
    text: Mapping[str, Any]
    reason: str

    def open(self, split: Split) -> ImageSet:
        """Raise ``InputError``."""
        raise InputError(self.reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnloadedAttack(BaseAttack):
    """An attack whose code could not be imported; to put it into a suite is refused, before others have run."""

    kind: str
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    text: Mapping[str, Any]
    reason: str

    @override
    def under(self, norm: Norm, eps: Radius) -> "UnloadedAttack":
        raise InputError(self.reason)

    def search(self, model: nn.Module, x: Tensor, objective: Any) -> Tensor:
        """Raise ``InputError``."""
        raise InputError(self.reason)


Unloaded = UnloadedMethod | UnloadedAugment | UnloadedSource | UnloadedAttack


def make_stand_in(base: type, text: Mapping[str, Any], reason: str) -> Unloaded:
    """Return the stand-in for what would have been a ``base``; ``text`` are its values as a recipe has them."""
    kinds: dict[type, type[Any]] = {
        Method: UnloadedMethod,
        Augment: UnloadedAugment,
        Source: UnloadedSource,
        BaseAttack: UnloadedAttack,
    }
    given = {name: text[name] for name in ("norm", "eps") if name in text and base is BaseAttack}
    made: Unloaded = kinds[base](kind=str(text["kind"]), text=dict(text), reason=reason, **given)
    return made
