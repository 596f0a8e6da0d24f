"""Knowledge distillation on clean images: how much robustness does a student inherit without seeing an attack?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from overproof.functional import cross_entropy
from overproof.methods.distillation import KLScale, check_mix, softened_kl
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class KD(Method):
    """Clean distillation (Hinton et al. 2015), the "what survives" study of ARD (Goldblum et al. 2020, Table 1).

    Formula: ``alpha t^2 KL(T^t(x) || S^t(x)) + (1 - alpha) CE(S(x), y)``.
    Official code (the KD baseline of RRM's repository): KL averaged over batch *and* classes, cross-entropy on tempered
    logits, clean labels unused at its alpha of 1; ``preset: paper`` does so.
    """

    kind: Literal["kd"] = "kd"
    alpha: float = 0.9
    temperature: float = 4.0
    kl_scale: KLScale = "batch"
    tempered_labels: bool = False
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    label_smoothing: float = 0.0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"alpha": 1.0, "temperature": 30.0, "kl_scale": "class", "tempered_labels": True}
    }

    def __post_init__(self) -> None:
        check_mix(self.alpha, self.temperature)
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``distil`` and, below alpha 1, ``label``."""
        target = step.teachers["robust"](step.x)
        logits = step.student(step.x)
        distil = softened_kl(logits, target, self.temperature, self.kl_scale, self.divergence.on(step))
        terms = {"distil": self.alpha * distil.mean()}
        if self.alpha < 1:
            read = logits / self.temperature if self.tempered_labels else logits
            terms["label"] = (1 - self.alpha) * cross_entropy(read, step.y, label_smoothing=self.label_smoothing).mean()
        yield terms
