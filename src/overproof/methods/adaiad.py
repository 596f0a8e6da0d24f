"""AdaIAD: AdaAD's search with IAD's trust in the teacher."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import kl
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.reliability import IdleForwards, check_introspection, introspective_terms, reliability


@dataclass(frozen=True, kw_only=True)
class AdaIAD(Method):
    """AdaAD with IAD-I's loss (Huang et al., CVPR 2023).

    Formula, with ``r = p_T(y | x')^beta``: ``alpha r t^2 KL(T^t(x') || S^t(x')) + alpha (1 - r) KL(S(x) || S(x')) +
    (1 - alpha) CE(S(x), y)`` with ``x' = argmax KL(T(x') || S(x'))`` through both networks. Until the share ``warmup``
    of the run r is 1.
    Official code: temperature 30 with its square, the first term not multiplied by r, the student's own target not
    detached, an idle clean pass first and a clean pass for a label term of weight 0. ``preset: paper`` does so.
    """

    kind: Literal["adaiad"] = "adaiad"
    alpha: float = 1.0
    temperature: float = 30.0
    beta: float = 0.1
    warmup: float = 0.3
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
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
            "inner": {"steps": 10, "start": "normal", "clip_start": False},
        }
    }

    def __post_init__(self) -> None:
        check_introspection(self.alpha, self.temperature, self.beta, self.warmup)
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``teacher``, ``self`` after the warm-up and, below alpha 1, ``label``."""
        student, teacher = step.student, step.teachers["robust"]
        adv = self.inner.at(step.progress)(student, step.x, lambda x: kl(student(x), teacher(x)))
        official = self.idle_forwards == "official"
        if official:
            student(step.x)
        target = teacher(adv)
        warm = step.progress >= self.warmup
        yield introspective_terms(
            step,
            student(adv),
            target,
            reliability(target, step.y, self.beta) if warm else None,
            alpha=self.alpha,
            temperature=self.temperature,
            weigh_teacher=self.weigh_teacher,
            detach_self=self.detach_self,
            official=official,
            between=self.divergence.on(step),
            label_smoothing=self.label_smoothing,
        )
