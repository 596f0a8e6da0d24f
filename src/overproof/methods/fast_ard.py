"""Fast-ARD: adversarially robust distillation at the price of natural training."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from overproof.attacks.ball import Threat
from overproof.attacks.objectives import as_objective
from overproof.clamp import clamp
from overproof.data.images import Batch
from overproof.functional import cross_entropy
from overproof.methods.distillation import KLScale, check_mix, softened_kl
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.replay import check_replays, move_perturbation, no_perturbation, perturbation


@dataclass(frozen=True, kw_only=True)
class FastARD(Method):
    """Fast-ARD: ARD (Goldblum et al., AAAI 2020) with the free replay of Shafahi et al. (2019).

    Formula, ``replays`` times per batch: ``alpha t^2 KL(T^t(x) || S^t(x + delta)) + (1 - alpha) CE(S(x), y)``; after
    each backward ``delta`` moves by eps along the sign of its gradient and stays for the next batch. The teacher is
    asked once per batch.
    The paper names the idea only and no official code holds it, so both readings are here: ``ascend: distillation``
    maximises the loss that is descended (one backward pass, truly free), ``ascend: cross_entropy`` maximises
    ``CE(S(x + delta), y)`` (one more forward and backward pass per replay). Ours, not the paper's.
    """

    kind: Literal["fast_ard"] = "fast_ard"
    alpha: float = 1.0
    temperature: float = 30.0
    replays: int = 4
    ascend: Literal["distillation", "cross_entropy"] = "distillation"
    threat: Threat = field(default_factory=Threat)
    kl_scale: KLScale = "batch"
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_mix(self.alpha, self.temperature)
        check_replays(self.replays)
        check_label_smoothing(self.label_smoothing)

    @property
    def updates(self) -> int:
        """One per replay."""
        return self.replays

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return a perturbation of zero."""
        return no_perturbation(like)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``distil`` and, below alpha 1, ``label``, once per replay."""
        target, between = step.teachers["robust"](step.x), self.divergence.on(step)
        for _ in range(self.replays):
            rows = perturbation(step)
            adv = clamp(step.x + rows, 0, 1)
            gradient = None
            if self.ascend == "cross_entropy":
                _, gradient = as_objective(lambda x: cross_entropy(step.student(x), step.y)).ascend(adv)
            distil = softened_kl(step.student(adv), target, self.temperature, self.kl_scale, between)
            terms = {"distil": self.alpha * distil.mean()}
            if self.alpha < 1:
                terms["label"] = (1 - self.alpha) * cross_entropy(
                    step.student(step.x), step.y, label_smoothing=self.label_smoothing
                ).mean()
            yield terms
            slope = rows.grad if gradient is None else gradient
            assert slope is not None
            move_perturbation(step, rows, slope, self.threat)
