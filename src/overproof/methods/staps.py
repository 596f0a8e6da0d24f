"""STAPS: TAPS over a small box around an adversarial image, instead of the whole ball."""

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
from overproof.methods.taps import check_latent, latent_loss


@dataclass(frozen=True, kw_only=True)
class STAPS(Method):
    """TAPS with the box of SABR (Mao et al., NeurIPS 2023, section 3.5).

    Formula: that of ``taps`` over the box of half width ``lam eps`` around ``x' = argmax CE(S(x'), y)`` within ``(1 -
    lam) eps`` of x, which is ``sabr``'s. eps, its norm and its ramp are those of ``inner``; ``relus``, ``steps``,
    ``expansion`` and ``link`` are those of ``taps``, ``balance`` and ``scaled_start`` as in ``ibp``.
    """

    kind: Literal["staps"] = "staps"
    lam: float = 0.4
    inner: PGD = field(default_factory=search_in_training)
    relus: int = 1
    steps: int = 8
    expansion: float = 5.0
    link: float = 0.5
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_certified(self.inner.norm, self.inner.ramp, self.balance)
        check_latent(self)
        if not 0 < self.lam < 1:
            raise ValueError(f"lam is the box's share of eps, above 0 and below 1, got {self.lam}; 1 would be taps")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``certified`` and, during the ramp, ``balance``."""
        prepare(step, scaled_start=self.scaled_start)
        update_statistics(step)
        search = self.inner.at(step.progress)
        nearer = replace(search, eps=Radius((1 - self.lam) * search.eps))
        adv = nearer(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        around = propagated(step.student, adv, self.lam * search.eps, search.norm)
        left = 1 - risen(step.progress, self.inner.ramp)
        yield {"certified": latent_loss(around, step, self), **around.balanced(left * self.balance)}
