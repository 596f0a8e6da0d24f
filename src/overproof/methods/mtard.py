"""MTARD: a robust teacher for the attacked image, a clean teacher for the clean one, their losses kept in balance."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.methods.distillation import KLScale
from overproof.methods.divergence import KL, Divergence
from overproof.methods.method import Step
from overproof.methods.two_teachers import TwoTeachers


@dataclass(frozen=True, kw_only=True)
class MTARD(TwoTeachers):
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
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value

    def targets(self, step: Step, adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers of both teachers, as they are."""
        return step.teachers["robust"](adv), step.teachers["clean"](step.x)
