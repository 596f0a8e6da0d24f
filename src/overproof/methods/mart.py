"""MART: adversarial training that looks harder at what is misclassified."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch.nn.functional as F

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class MART(Method):
    """Misclassification-aware adversarial training (Wang et al., ICLR 2020).

    Formula: ``BCE(S(x'), y) + beta KL(S(x) || S(x')) (1 - p_y(x))`` with ``BCE = -log p_y - log(1 - max_{j != y} p_j)``
    and ``x' = argmax CE(S(x'), y)``; gradients flow through both forward passes and the weight.
    Official code adds 1e-12 to 1.0001 inside logarithms; here the second logarithm is ``log1p`` of the negated
    probability, bounded 1e-6 away from 1. Written from the paper's formula.
    """

    kind: Literal["mart"] = "mart"
    beta: float = 5.0
    inner: PGD = field(default_factory=PGD)
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)
        if self.beta < 0:
            raise ValueError(f"beta weighs the robust term and cannot be negative, got {self.beta}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``boosted`` and ``robust``."""
        adv = self.inner.at(step.progress)(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        attacked, clean = step.student(adv), step.student(step.x)
        runner_up = F.softmax(attacked, dim=1).scatter(1, step.y[:, None], 0).amax(dim=1)
        boosted = (
            cross_entropy(attacked, step.y, label_smoothing=self.label_smoothing)
            - (-runner_up.clamp(max=1 - 1e-6)).log1p()
        )
        unsure = 1 - F.softmax(clean, dim=1).gather(1, step.y[:, None]).squeeze(1)
        yield {"boosted": boosted.mean(), "robust": self.beta * (unsure * kl(attacked, clean)).mean()}
