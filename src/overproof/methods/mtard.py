"""MTARD: a robust teacher for the attacked image, a clean teacher for the clean one, their losses kept in balance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.functional import cross_entropy
from overproof.methods.control import balance, check_drops, decayed
from overproof.methods.distillation import KLScale, check_weights, shifted_kl
from overproof.methods.method import Method, Step, Terms

PAPER: Mapping[str, Any] = {
    "kl_scale": "class",
    "log_eps": 1e-5,
    "rate_drops": [215 / 300, 260 / 300, 285 / 300],
    "inner": {"steps": 10, "start": "normal", "clip_start": False},
}
"""The settings of the official code, which the balanced form shares."""


@dataclass(frozen=True, kw_only=True)
class MTARD(Method):
    """Multi-Teacher Adversarial Robustness Distillation (Zhao et al., ECCV 2022).

    Formula: ``w_adv KL(T_robust(x') || S(x')) + w_clean KL(T_clean(x) || S(x))``, ``x' = argmax CE(S(x'), y)``,
    temperature 1, no labels. The weights follow each loss relative to its value in the first batch (adaptive
    normalisation loss; ``control.balance``), updated before they are used; ``balance_rate: 0`` fixes them at 1/2.
    Memory: ``weights``, ``initial``, ``relative`` losses, in the order adv, clean.
    Official code: KL averaged over batch *and* classes (times 10 for CIFAR-100: ``factor``) with ``log(p + 1e-5)``;
    start 0.001 times a normal, not clipped; the rate falls with the learning rate. ``preset: paper`` does so.
    """

    kind: Literal["mtard"] = "mtard"
    balance_rate: float = 0.025
    balance_power: float = 1.0
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

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return equal weights; the initial losses are unknown (NaN) until the first batch."""
        return even_weights(like.x)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv`` and ``clean``."""
        student, teachers = step.student, step.teachers
        adv = self.inner.at(step.progress)(student, step.x, lambda x: cross_entropy(student(x), step.y))
        attacked, clean = student(adv), student(step.x)
        divergences = (
            shifted_kl(attacked, teachers["robust"](adv), self.kl_scale, self.log_eps),
            shifted_kl(clean, teachers["clean"](step.x), self.kl_scale, self.log_eps),
        )
        adv_loss, clean_loss = (self.factor * divergence.mean() for divergence in divergences)
        rate = decayed(self.balance_rate, step.progress, self.rate_drops)
        losses = step.part.mean(torch.stack([adv_loss, clean_loss]))
        weights = rebalanced(step.state, losses, rate, self.balance_power)
        yield {"adv": weights[0] * adv_loss, "clean": weights[1] * clean_loss}


def even_weights(like: Tensor) -> dict[str, Tensor]:
    """Return the memory of the balance of two losses before the first batch, placed and typed like ``like``."""
    return {
        "weights": torch.full((2,), 0.5, dtype=like.dtype, device=like.device),
        "initial": torch.full((2,), torch.nan, dtype=like.dtype, device=like.device),
        "relative": torch.ones(2, dtype=like.dtype, device=like.device),
    }


def rebalanced(state: dict[str, Tensor], losses: Tensor, rate: float, power: float) -> Tensor:
    """Update the memory by this batch's losses ``[2]`` and return the weights to use now; no gradient flows."""
    losses = losses.detach()
    state["initial"] = torch.where(state["initial"].isnan(), losses, state["initial"])
    state["relative"] = losses / state["initial"].clamp_min(torch.finfo(losses.dtype).tiny)
    state["weights"] = balance(losses, state["initial"], state["weights"], rate, power)
    return state["weights"]


def check_rate(name: str, rate: float) -> None:
    """Raise ``ValueError`` for a rate outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} is a step towards a target and must be in [0, 1], got {rate}")
