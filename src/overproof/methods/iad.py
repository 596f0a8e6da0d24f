"""IAD: introspective adversarial distillation, a teacher trusted only where it is reliable."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.reliability import IdleForwards, check_introspection, introspective_terms, reliability


@dataclass(frozen=True, kw_only=True)
class IAD(Method):
    """Introspective Adversarial Distillation, IAD-I (Zhu et al., ICLR 2022).

    Formula, with ``r = p_T(y | x')^beta``: ``alpha r t^2 KL(T^t(x) || S^t(x')) + alpha (1 - r) KL(S(x) || S(x')) +
    (1 - alpha) CE(S(x), y)``, ``x' = argmax CE(S(x'), y)``. Until the share ``warmup`` of the run it is ARD: r = 1.
    Official code: the first term is *not* multiplied by r, the student's own target is not detached, the search is in
    train mode from an unclipped uniform start, and a second pass at x' and a clean pass for a label term of weight 0
    only move BatchNorm statistics. ``preset: paper`` does so.
    """

    kind: Literal["iad"] = "iad"
    alpha: float = 1.0
    temperature: float = 1.0
    beta: float = 0.1
    warmup: float = 0.3
    inner: PGD = field(default_factory=PGD)
    weigh_teacher: bool = True
    detach_self: bool = True
    idle_forwards: IdleForwards = "none"
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    label_smoothing: float = 0.0
    weighable: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "weigh_teacher": False,
            "detach_self": False,
            "idle_forwards": "official",
            "inner": {"steps": 10, "start": "uniform", "clip_start": False, "mode": "train"},
        }
    }

    def __post_init__(self) -> None:
        check_introspection(self.alpha, self.temperature, self.beta, self.warmup)
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``teacher``, ``self`` after the warm-up and, below alpha 1, ``label``."""
        student, teacher = step.student, step.teachers["robust"]
        adv = self.inner.at(step.progress)(student, step.x, lambda x: cross_entropy(student(x), step.y))
        official = self.idle_forwards == "official"
        attacked = student(adv)
        if official:
            student(adv)
        warm = step.progress >= self.warmup
        yield introspective_terms(
            step,
            attacked,
            teacher(step.x),
            reliability(teacher(adv), step.y, self.beta) if warm else None,
            alpha=self.alpha,
            temperature=self.temperature,
            weigh_teacher=self.weigh_teacher,
            detach_self=self.detach_self,
            official=official,
            between=self.divergence.on(step),
            label_smoothing=self.label_smoothing,
        )
