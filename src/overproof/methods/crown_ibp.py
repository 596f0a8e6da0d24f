"""CROWN-IBP: cross-entropy at the worst logits, by linear bounds while the ball grows and by intervals after."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from overproof.attacks.ball import Threat
from overproof.methods.certified import check_certified, check_shares, worst_case
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class CROWNIBP(Method):
    """CROWN-IBP (Zhang et al., ICLR 2020, "Towards stable and efficient training of verifiably robust networks").

    Formula: as ``ibp``, with the margins bounded from below by ``beta CROWN-IBP + (1 - beta) IBP``: linear bounds from
    the logits back to the image, between intervals of the layers. Over the share ``ramp`` of the run eps grows from 0,
    and kappa and beta go from their first to their second values.
    Cost: while beta is positive, one backward pass of linear bounds for each of the K - 1 margins of every image.
    ``scaled_start`` and ``balance`` as in ``ibp``; the paper has neither.
    """

    kind: Literal["crown_ibp"] = "crown_ibp"
    threat: Threat = field(default_factory=Threat)
    ramp: float = 0.5
    kappa: tuple[float, float] = (1.0, 0.5)
    beta: tuple[float, float] = (1.0, 0.0)
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_certified(self.threat.norm, self.ramp, self.balance)
        check_shares(kappa=self.kappa, beta=self.beta)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``label`` (while kappa is positive), ``certified`` and, during the ramp, ``balance``."""
        yield worst_case(step, self, self.beta)
