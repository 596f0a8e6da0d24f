"""IBP: cross-entropy at the worst logits that interval bounds allow."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from overproof.attacks.ball import Threat
from overproof.methods.certified import check_certified, check_shares, worst_case
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class IBP(Method):
    """Interval bound propagation (Gowal et al. 2018, "On the effectiveness of interval bound propagation ...").

    Formula: ``kappa CE(S(x), y) + (1 - kappa) CE(worst S over the ball, y)``; the worst logits are those that interval
    bounds of the margins allow, the last layer folded into the margins. Over the share ``ramp`` of the run eps grows
    from 0, and kappa goes from its first to its second value; at a kappa of 0 there is no clean pass.
    ``scaled_start`` and ``balance`` are the initialisation and the regulariser of Shi et al. (2021, "Fast certified
    robust training with short warmup"): weights of mean size 2 / fan-in, here scaled and not drawn again, and a penalty
    on wide bounds and one-sided ReLUs whose weight falls to 0 over the ramp. Both make the first hundred updates slow
    and are off by default; our recipes use both.
    """

    kind: Literal["ibp"] = "ibp"
    threat: Threat = field(default_factory=Threat)
    ramp: float = 0.5
    kappa: tuple[float, float] = (1.0, 0.5)
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_certified(self.threat.norm, self.ramp, self.balance)
        check_shares(kappa=self.kappa)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``label`` (while kappa is positive), ``certified`` and, during the ramp, ``balance``."""
        yield worst_case(step, self)
