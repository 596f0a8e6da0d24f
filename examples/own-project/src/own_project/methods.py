"""A method: adversarial distillation whose target is a mean of the teacher's answer and the label."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from overproof.attacks import PGD
from overproof.methods import Method, Step


@dataclass(frozen=True, kw_only=True)
class OneTarget(Method):
    """The cross-entropy of the student to ``alpha * teacher(x) + (1 - alpha) * label``, on adversarial images.

    The attack maximises the same loss.
    """

    kind: Literal["one_target"] = "one_target"
    alpha: float = 0.5
    inner: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share, in [0, 1], got {self.alpha}")

    def losses(self, step: Step) -> Iterator[dict[str, Tensor]]:
        """Yield the loss of the batch."""
        teacher: Tensor = step.teachers["robust"](step.x).float().softmax(dim=1)
        label = F.one_hot(step.y, teacher.shape[1])
        target = self.alpha * teacher + (1 - self.alpha) * label

        def loss(x: Tensor) -> Tensor:  # [N]: a mean is taken once, where a term is yielded
            logits: Tensor = step.student(x)
            return -(target * logits.float().log_softmax(dim=1)).sum(dim=1)

        x_adv = self.inner.at(step.progress)(step.student, step.x, loss)
        yield {"adv": loss(x_adv).mean()}
