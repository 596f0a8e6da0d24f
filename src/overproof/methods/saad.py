"""SAAD: listen to the teacher most where the attack leaves it unsure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from overproof.attacks.objectives import as_objective
from overproof.attacks.pgd import PGD
from overproof.functional import entropy, kl
from overproof.methods.distillation import check_weights
from overproof.methods.divergence import KL, Divergence
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class SAAD(Method):
    """Sample-wise Adaptive Adversarial Distillation (Lee et al., TMLR 2026).

    Formula, per example with ``w = entropy_scale (H(T(x')) - min H)`` and ``w_norm`` its rescaling to [0, 1]: ``w (
    KL(T(x') || S(x')) + gradient_weight progress KL(T(x+d) - T(x-d) || S(x+d) - S(x-d)) ) + clean_weight (1 - w_norm)
    KL(T(x) || S(x))``. The search maximises KL against the teacher's clean logits, of which the label's is corrected
    to first order by ``correction <grad T_y(x), x' - x>``: one input gradient of the teacher per batch.
    Official code: as here (start 0.001 times a normal, not clipped; its launcher sets the clean weight to 0, and weight
    averaging from the middle of the run on).
    """

    kind: Literal["saad"] = "saad"
    entropy_scale: float = 5.0
    gradient_weight: float = 1.0
    clean_weight: float = 0.0
    correction: float = 1.0
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        check_weights(
            entropy_scale=self.entropy_scale, gradient_weight=self.gradient_weight, clean_weight=self.clean_weight
        )

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv``, ``gradient`` and, where it has weight, ``clean``."""
        student, teacher = step.student, step.teachers["robust"]
        answers: list[Tensor] = []

        def own_logit(x: Tensor) -> Tensor:
            answers.append(teacher(x))
            return answers[0].gather(1, step.y[:, None]).squeeze(1)

        _, slope = as_objective(own_logit).ascend(step.x)
        around = answers[0].detach()

        def gap(x: Tensor) -> Tensor:
            rise = self.correction * (slope * (x - step.x)).flatten(1).sum(dim=1)
            return kl(student(x), around.scatter_add(1, step.y[:, None], rise[:, None].to(around.dtype)))

        adv = self.inner.at(step.progress)(student, step.x, gap)
        mirrored = step.x - (adv - step.x)
        target = teacher(adv)
        attacked, opposite = student(adv), student(mirrored)
        unsure = entropy(target)
        weight = self.entropy_scale * (unsure - step.part.least(unsure))
        slopes = kl(attacked - opposite, target - teacher(mirrored))
        terms = {
            "adv": (weight * self.divergence.on(step)(attacked, target)).mean(),
            "gradient": self.gradient_weight * step.progress * (weight * slopes).mean(),
        }
        if self.clean_weight:
            sure = 1 - weight / (step.part.greatest(weight) + 1e-8)
            terms["clean"] = self.clean_weight * (sure * kl(student(step.x), around)).mean()
        yield terms
