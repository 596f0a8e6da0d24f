"""DGAD: clean images teach where the teacher errs, attacked ones where it does not, and its errors are corrected."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.functional import kl
from overproof.methods.distillation import check_weights
from overproof.methods.divergence import KL, Divergence
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class DGAD(Method):
    """Dynamic Guidance Adversarial Distillation (Park and Min, ECCV 2024).

    Formula, with ``e = 1`` where the teacher misclassifies the clean image: ``mean e KL(T~(x) || S(x)) + mean (1 - e)
    KL(T~(x') || S(x')) + beta mean_k (p_S(x')_k - p_S(x)_k)^2``, the means over the batch, ``x' = argmax KL(T(x') ||
    S(x'))`` through both networks. ``T~`` is the teacher with the logits of the label and of its prediction exchanged
    where they differ (``correct: false`` leaves them; SAAD's authors found the exchange worth nothing or less).
    Official code: as here for a ResNet-18, with the count of errors divided by the nominal batch size in the last,
    smaller batch too; for a MobileNetV2 a misplaced bracket multiplies the two losses with each other. Here neither.
    """

    kind: Literal["dgad"] = "dgad"
    beta: float = 1.0
    correct: bool = True
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    weighable: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"beta": 1.0, "inner": {"steps": 10, "start": "normal", "clip_start": False}}
    }

    def __post_init__(self) -> None:
        check_weights(beta=self.beta)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv``, ``clean`` and ``consistency``."""
        student, teacher = step.student, step.teachers["robust"]
        adv = self.inner.at(step.progress)(student, step.x, lambda x: kl(student(x), teacher(x)))
        own, taught = teacher(step.x), teacher(adv)
        errs = (own.argmax(dim=1) != step.y).to(own.dtype)
        if self.correct:
            own, taught = corrected(own, step.y), corrected(taught, step.y)
        clean, attacked = student(step.x), student(adv)
        between = self.divergence.on(step)
        apart = F.softmax(attacked, dim=1) - F.softmax(clean, dim=1)
        yield {
            "adv": step.mean((1 - errs) * between(attacked, taught)),
            "clean": step.mean(errs * between(clean, own)),
            "consistency": self.beta * apart.square().mean(),
        }


def corrected(logits: Tensor, y: Tensor) -> Tensor:
    """Return logits ``[N, K]`` in which the label's and the greatest have changed places."""
    predicted = logits.argmax(dim=1, keepdim=True)
    label = y[:, None]
    swapped = logits.scatter(1, label, logits.gather(1, predicted))
    return swapped.scatter(1, predicted, logits.gather(1, label))
