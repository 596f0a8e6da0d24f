"""B-MTARD: MTARD with teachers tempered until both are equally unsure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.functional import cross_entropy, entropy
from overproof.methods.control import check_drops, decayed, temper
from overproof.methods.distillation import KLScale, check_weights, shifted_kl
from overproof.methods.method import Method, Step, Terms
from overproof.methods.mtard import PAPER, check_rate, even_weights, rebalanced


@dataclass(frozen=True, kw_only=True)
class BMTARD(Method):
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
    roles: ClassVar[tuple[str, ...]] = ("robust", "clean")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}

    def __post_init__(self) -> None:
        check_rate("balance_rate", self.balance_rate)
        check_drops(self.rate_drops)
        check_weights(factor=self.factor, log_eps=self.log_eps)
        if self.temper_rate < 0 or not 0 < self.low <= 1 <= self.high:
            raise ValueError(
                f"temperatures start at 1 and move by temper_rate >= 0 between 0 < low <= 1 <= high, got temper_rate "
                f"{self.temper_rate}, low {self.low}, high {self.high}"
            )

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return equal weights, temperatures of 1, and entropies not yet known."""
        ones = torch.ones(2, dtype=like.x.dtype, device=like.x.device)
        return {**even_weights(like.x), "temperatures": ones, "entropies": torch.full_like(ones, torch.nan)}

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv`` and ``clean``."""
        student, state = step.student, step.state
        adv = self.inner.at(step.progress)(student, step.x, lambda x: cross_entropy(student(x), step.y))
        attacked, clean = student(adv), student(step.x)
        temperatures = state["temperatures"]
        robust_target = step.teachers["robust"](adv) / temperatures[0]
        clean_target = step.teachers["clean"](step.x) / temperatures[1]
        adv_loss = self.factor * shifted_kl(attacked, robust_target, self.kl_scale, self.log_eps).mean()
        clean_loss = self.factor * shifted_kl(clean, clean_target, self.kl_scale, self.log_eps).mean()
        unsure = torch.stack([entropy(robust_target).mean(), entropy(clean_target).mean()])
        state["entropies"] = step.part.mean(unsure)
        temper_rate = decayed(self.temper_rate, step.progress, self.rate_drops)
        state["temperatures"] = temper(state["entropies"], temperatures, temper_rate, self.low, self.high)
        balance_rate = decayed(self.balance_rate, step.progress, self.rate_drops)
        losses = step.part.mean(torch.stack([adv_loss, clean_loss]))
        weights = rebalanced(state, losses, balance_rate, self.balance_power)
        yield {"adv": weights[0] * adv_loss, "clean": weights[1] * clean_loss}
