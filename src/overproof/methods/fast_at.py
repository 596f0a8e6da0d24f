"""Fast adversarial training: one step from a random start."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


def _one_step() -> PGD:
    return PGD(steps=1, start="uniform")


@dataclass(frozen=True, kw_only=True)
class FastAT(Method):
    """ "Fast is better than free" (Wong et al., ICLR 2020): FGSM from a uniform start with a step of 1.25 eps.

    Formula: ``CE(S(x'), y)``, ``x'`` one step of length ``reach * eps`` from a uniform start, projected.
    One step can overfit catastrophically: accuracy under FGSM stays while accuracy under PGD falls to nothing within an
    epoch. Every run is validated with PGD, and a sudden collapse of that figure is reported by name.
    """

    kind: Literal["fast_at"] = "fast_at"
    inner: PGD = field(default_factory=_one_step)
    reach: float = 1.25
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)
        if self.reach <= 0:
            raise ValueError(f"reach is the step in units of eps and must be positive, got {self.reach}")
        if self.inner.steps != 1:
            raise ValueError(f"fast_at takes one step; for {self.inner.steps} use pgd_at")
        if self.inner.step is not None:
            raise ValueError("fast_at steps by reach times eps; say reach, not inner.step")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the term ``adv``."""
        search = self.inner.at(step.progress)
        search = replace(search, step=Radius(self.reach * search.eps))
        adv = search(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        yield {"adv": cross_entropy(step.student(adv), step.y, label_smoothing=self.label_smoothing).mean()}
