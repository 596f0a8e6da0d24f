"""Two teachers and two losses in balance: what MTARD and its balanced form share."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.functional import cross_entropy
from overproof.methods.control import balance, check_drops, decayed
from overproof.methods.distillation import KLScale, check_weights, shifted_kl
from overproof.methods.divergence import Divergence, check_log_eps
from overproof.methods.method import Method, Step, Terms

PAPER: Mapping[str, Any] = {
    "kl_scale": "class",
    "log_eps": 1e-5,
    "rate_drops": [215 / 300, 260 / 300, 285 / 300],
    "inner": {"steps": 10, "start": "normal", "clip_start": False},
}
"""The settings of the official code, which both forms share."""


class TwoTeachers(Method):
    """A robust teacher for the attacked image and a clean one for the clean image; the losses' weights follow both.

    A subclass is a dataclass with these fields, in an order of its own, and says in ``targets`` what the teachers ask
    for.
    """

    balance_rate: float
    balance_power: float
    rate_drops: tuple[float, ...]
    inner: PGD
    kl_scale: KLScale
    log_eps: float
    factor: float
    divergence: Divergence
    roles: ClassVar[tuple[str, ...]] = ("robust", "clean")
    weighable: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}

    def __post_init__(self) -> None:
        if not 0 <= self.balance_rate <= 1:
            raise ValueError(f"balance_rate is a step towards a target and must be in [0, 1], got {self.balance_rate}")
        check_drops(self.rate_drops)
        check_weights(factor=self.factor, log_eps=self.log_eps)
        check_log_eps(self.divergence, self.log_eps)

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return equal weights; the initial losses are unknown (NaN) until the first batch."""
        halves = torch.full((2,), 0.5, dtype=like.x.dtype, device=like.x.device)
        return {
            "weights": halves,
            "initial": torch.full_like(halves, torch.nan),
            "relative": torch.ones_like(halves),
        }

    @abstractmethod
    def targets(self, step: Step, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits that the student is to have at the attacked and at the clean images, ``[N, K]`` each."""

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv`` and ``clean``."""
        student = step.student
        adv = self.inner.at(step.progress)(student, step.x, lambda x: cross_entropy(student(x), step.y))
        answers = student(adv), student(step.x)
        adv_losses, clean_losses = (
            shifted_kl(answer, target, self.kl_scale, self.log_eps, self.divergence.on(step, role))
            for answer, target, role in zip(answers, self.targets(step, adv), self.roles, strict=True)
        )
        adv_loss, clean_loss = self.factor * step.mean(adv_losses), self.factor * clean_losses.mean()
        rate = decayed(self.balance_rate, step.progress, self.rate_drops)
        losses = step.part.mean(torch.stack([adv_loss, clean_loss]))
        weights = rebalanced(step.state, losses, rate, self.balance_power)
        yield {"adv": weights[0] * adv_loss, "clean": weights[1] * clean_loss}


def rebalanced(state: dict[str, Tensor], losses: Tensor, rate: float, power: float) -> Tensor:
    """Update the memory by this batch's losses ``[2]`` and return the weights to use now; no gradient flows."""
    losses = losses.detach()
    state["initial"] = torch.where(state["initial"].isnan(), losses, state["initial"])
    state["relative"] = losses / state["initial"].clamp_min(torch.finfo(losses.dtype).tiny)
    state["weights"] = balance(losses, state["initial"], state["weights"], rate, power)
    return state["weights"]
