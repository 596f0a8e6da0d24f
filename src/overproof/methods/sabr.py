"""SABR: interval bounds over a small box around an adversarial image, instead of the whole ball."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.certified import (
    check_certified,
    prepare,
    propagated,
    risen,
    search_in_training,
    update_statistics,
)
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class SABR(Method):
    """Small adversarial bounding regions (Mueller et al., ICLR 2023, "Certified training: small boxes ...").

    Formula: ``CE(worst S within lam eps of x', y)`` by interval bounds, with ``x' = argmax CE(S(x'), y)`` within
    ``(1 - lam) eps`` of x, so that the small ball is inside the large one. eps, its norm and its ramp are those of
    ``inner``.
    The smaller ``lam``, the less the bounds cost in accuracy, and the better a verifier the result needs: interval
    bounds over the whole ball prove little of it.
    ``scaled_start`` and ``balance`` as in ``ibp``, as in the official code. Without a ball left to search, at a lam of
    1, this is ``ibp`` at a kappa of 0.
    """

    kind: Literal["sabr"] = "sabr"
    lam: float = 0.4
    inner: PGD = field(default_factory=search_in_training)
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_certified(self.inner.norm, self.inner.ramp, self.balance)
        if not 0 < self.lam < 1:
            raise ValueError(f"lam is the box's share of eps, above 0 and below 1, got {self.lam}; 1 would be ibp")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``certified`` and, during the ramp, ``balance``."""
        prepare(step, scaled_start=self.scaled_start)
        update_statistics(step)
        search = self.inner.at(step.progress)
        nearer = replace(search, eps=Radius((1 - self.lam) * search.eps))
        adv = nearer(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        around = propagated(step.student, adv, self.lam * search.eps, search.norm)
        left = 1 - risen(step.progress, self.inner.ramp)
        yield {"certified": around.cross_entropy(step.y).mean(), **around.balanced(left * self.balance)}
