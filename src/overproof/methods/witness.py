"""Watching a method from outside, for methods that wrap others: what its search found, and what a network answered."""

from dataclasses import dataclass, field, fields, replace
from typing import Protocol, cast

from torch import Tensor, nn

from overproof.attacks.objectives import Score
from overproof.attacks.pgd import PGD
from overproof.methods.method import Method
from overproof.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Recorded(PGD):
    """A search that appends what it finds to ``found``."""

    searched: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def search(self, model: nn.Module, x: Tensor, objective: Score) -> Tensor:
        """Search, and remember the images found."""
        adv = super().search(model, x, objective)
        self.searched.append(adv)
        return adv


@dataclass(frozen=True, kw_only=True)
class Repeated(Recorded):
    """A search that returns again what a recorded one found last."""

    def search(self, model: nn.Module, x: Tensor, objective: Score) -> Tensor:
        """Return the images found last."""
        del model, x, objective
        return self.searched[-1]


class _Searching(Protocol):
    inner: PGD


def search_of(method: Method) -> PGD | None:
    """Return the search of a method, its ``inner``; None where it has none."""
    search = getattr(method, "inner", None)
    return search if isinstance(search, PGD) else None


def recorded(method: Method, searched: list[Tensor], *, repeat: bool = False) -> Method:
    """Return the same method with a search that records into ``found``, or repeats what is there."""
    search = cast(_Searching, method).inner
    options = {part.name: getattr(search, part.name) for part in fields(PGD)}
    watched = (Repeated if repeat else Recorded)(**options, searched=searched)
    return replace(method, inner=watched)  # type: ignore[type-var]


class RecordingNetwork(nn.Module):
    """A network that keeps its answer to the images that a search found last, so that nobody has to ask again."""

    def __init__(self, network: Classifier, searched: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        self.searched = searched
        self.answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        logits: Tensor = self.network(x)
        if self.searched and x is self.searched[-1]:
            self.answer = logits
        return logits

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and representation, as the network does."""
        return self.network.features(x)

    def answered(self) -> Tensor:
        """Return the logits at the images found last, ``[N, K]``; ask the network where nobody has."""
        if self.answer is None:
            self.answer = self.network(self.searched[-1])
        return self.answer


def as_classifier(witness: RecordingNetwork) -> Classifier:
    """Return the witness under the type that a step asks for; it answers everything a method may ask."""
    return cast(Classifier, witness)
