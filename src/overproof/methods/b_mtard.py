"""B-MTARD: MTARD with teachers tempered until both are equally unsure."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.functional import entropy
from overproof.methods.control import decayed, temper
from overproof.methods.distillation import KLScale
from overproof.methods.divergence import KL, Divergence
from overproof.methods.method import Step
from overproof.methods.two_teachers import TwoTeachers


@dataclass(frozen=True, kw_only=True)
class BMTARD(TwoTeachers):
    """Balanced MTARD (Zhao et al., TPAMI 2024): entropy-based balance of the teachers, normalisation balance of losses.

    Formula: ``w_adv KL(T_robust(x') / tau_adv || S(x')) + w_clean KL(T_clean(x) / tau_clean || S(x))``; the student's
    temperature is 1 and there is no t^2. Every batch each temperature moves by ``temper_rate`` so that the teachers'
    mean entropies approach each other (``control.temper``), in [``low``, ``high``]. The loss uses the temperatures from
    before the update and the weights from after theirs, as the official code. Rates of 0 fix both.
    Memory: ``temperatures``, ``entropies``, ``weights``, ``initial``, ``relative``, in the order adv, clean.
    Official code: as MTARD; ``preset: paper`` reproduces it. The paper's text on the balance was not at hand; this is
    its code.
    """

    kind: Literal["b_mtard"] = "b_mtard"
    balance_rate: float = 0.025
    balance_power: float = 1.0
    temper_rate: float = 0.001
    low: float = 1.0
    high: float = 10.0
    rate_drops: tuple[float, ...] = ()
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    kl_scale: KLScale = "batch"
    log_eps: float = 0.0
    factor: float = 1.0
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temper_rate < 0 or not 0 < self.low <= 1 <= self.high:
            raise ValueError(
                f"temperatures start at 1 and move by temper_rate >= 0 between 0 < low <= 1 <= high, got temper_rate "
                f"{self.temper_rate}, low {self.low}, high {self.high}"
            )

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return equal weights, temperatures of 1, and entropies not yet known."""
        ones = torch.ones(2, dtype=like.x.dtype, device=like.x.device)
        return super().initial_state(like) | {"temperatures": ones, "entropies": torch.full_like(ones, torch.nan)}

    def targets(self, step: Step, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers of both teachers at the temperatures of now, and move these for the next batch."""
        state, temperatures = step.state, step.state["temperatures"]
        robust = step.teachers["robust"](adv) / temperatures[0]
        clean = step.teachers["clean"](step.x) / temperatures[1]
        state["entropies"] = step.part.mean(torch.stack([entropy(robust).mean(), entropy(clean).mean()]))
        rate = decayed(self.temper_rate, step.progress, self.rate_drops)
        state["temperatures"] = temper(state["entropies"], temperatures, rate, self.low, self.high)
        return robust, clean
