"""MTL-IBP: a mix of the loss under attack and the loss that interval bounds allow."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.certified import check_certified, check_shares, prepare, propagated, risen, search_in_training
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class MTLIBP(Method):
    """MTL-IBP (De Palma et al., ICLR 2024, "Expressive losses for verified robustness via convex combinations").

    Formula: ``(1 - alpha) CE(S(x'), y) + alpha CE(worst S over the ball, y)``, ``x' = argmax CE(S(x'), y)`` and the
    worst logits by interval bounds: a lower and an upper bound of the worst loss. eps, its norm and its ramp are those
    of ``inner``, for both terms. As with ``sabr``, a small alpha leaves more accuracy, and more work to a verifier.
    ``scaled_start`` and ``balance`` as in ``ibp``.
    """

    kind: Literal["mtl_ibp"] = "mtl_ibp"
    alpha: float = 0.5
    inner: PGD = field(default_factory=search_in_training)
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_certified(self.inner.norm, self.inner.ramp, self.balance)
        check_shares(alpha=(self.alpha,))

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv``, ``certified`` and, during the ramp, ``balance``."""
        prepare(step, scaled_start=self.scaled_start)
        search = self.inner.at(step.progress)
        adv = search(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        attacked = cross_entropy(step.student(adv), step.y)
        around = propagated(step.student, step.x, search.eps, search.norm)
        yield {
            "adv": (1 - self.alpha) * attacked.mean(),
            "certified": self.alpha * around.cross_entropy(step.y).mean(),
            **around.balanced((1 - risen(step.progress, self.inner.ramp)) * self.balance),
        }
