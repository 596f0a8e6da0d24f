"""Adversarially robust distillation: match the teacher's clean answer at the worst image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.distillation import KLScale, check_mix, softened_kl
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class ARD(Method):
    """Adversarially Robust Distillation (Goldblum et al., AAAI 2020).

    Formula: ``alpha t^2 KL(T^t(x) || S^t(x')) + (1 - alpha) CE(S(x), y)`` with ``x' = argmax CE(S(x'), y)``. The
    teacher sees the clean image only, and is asked once per batch.
    Official code: KL averaged over batch *and* classes; the student searches in train mode (BatchNorm moves); the start
    is uniform and not clipped; the clean forward pass runs even at alpha 1. ``preset: paper`` does so.
    Deviations by default: KL summed over classes, search in eval mode, no clean pass where its weight is 0.
    """

    kind: Literal["ard"] = "ard"
    alpha: float = 1.0
    temperature: float = 30.0
    inner: PGD = field(default_factory=PGD)
    kl_scale: KLScale = "batch"
    clean_forward: Literal["needed", "always"] = "needed"
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    label_smoothing: float = 0.0
    weighable: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "alpha": 1.0,
            "temperature": 30.0,
            "kl_scale": "class",
            "clean_forward": "always",
            "inner": {"steps": 10, "start": "uniform", "clip_start": False, "mode": "train"},
        }
    }

    def __post_init__(self) -> None:
        check_mix(self.alpha, self.temperature)
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``distil`` and, below alpha 1, ``label``."""
        target = step.teachers["robust"](step.x)
        adv = self.inner.at(step.progress)(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        between = self.divergence.on(step)
        distil = softened_kl(step.student(adv), target, self.temperature, self.kl_scale, between)
        terms = {"distil": self.alpha * step.mean(distil)}
        if self.alpha < 1 or self.clean_forward == "always":
            label = cross_entropy(step.student(step.x), step.y, label_smoothing=self.label_smoothing)
            terms["label"] = (1 - self.alpha) * label.mean()
        yield terms
