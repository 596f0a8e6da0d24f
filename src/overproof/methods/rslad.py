"""RSLAD: the teacher's clean answer is the only label, in the search and in the loss."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import kl
from overproof.methods.distillation import KLScale, check_mix, check_weights, shifted_kl
from overproof.methods.divergence import KL, Divergence, check_log_eps
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class RSLAD(Method):
    """Robust Soft Label Adversarial Distillation (Zi et al., ICCV 2021).

    Formula: ``alpha KL(T(x) || S(x')) + (1 - alpha) KL(T(x) || S(x))`` with ``x' = argmax KL(T(x) || S(x'))``, alpha
    5/6, temperature 1, no labels. The teacher sees the clean image only, and is asked once per batch.
    Official code: KL averaged over batch *and* classes (times 10 in the CIFAR-100 script: ``factor``), with
    ``log(p + 1e-5)`` for the teacher's logarithm; start 0.001 times a normal, not clipped. ``preset: paper`` does so.
    """

    kind: Literal["rslad"] = "rslad"
    alpha: float = 5 / 6
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    kl_scale: KLScale = "batch"
    log_eps: float = 0.0
    factor: float = 1.0
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    weighable: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "alpha": 5 / 6,
            "kl_scale": "class",
            "log_eps": 1e-5,
            "inner": {"steps": 10, "start": "normal", "clip_start": False},
        }
    }

    def __post_init__(self) -> None:
        check_mix(self.alpha, 1)
        check_weights(factor=self.factor, log_eps=self.log_eps)
        check_log_eps(self.divergence, self.log_eps)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``adv`` and ``clean``."""
        target = step.teachers["robust"](step.x)
        adv = self.inner.at(step.progress)(step.student, step.x, lambda x: kl(step.student(x), target))
        attacked, clean = step.student(adv), step.student(step.x)
        between = self.divergence.on(step)
        adv_loss, clean_loss = (
            shifted_kl(answer, target, self.kl_scale, self.log_eps, between) for answer in (attacked, clean)
        )
        yield {
            "adv": self.factor * self.alpha * step.mean(adv_loss),
            "clean": self.factor * (1 - self.alpha) * step.mean(clean_loss),
        }
