"""LBGAT: a network that learns beside the student, on clean images, whose logits guide the student under attack."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.methods.distillation import check_weights
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.own_answer import search_from_own_answer


@dataclass(frozen=True, kw_only=True)
class LBGAT(Method):
    """Learnable Boundary Guided Adversarial Training (Cui et al., ICCV 2021).

    Formula: ``guide mean_k (z_S(x')_k - z_G(x)_k)^2 + CE(G(x), y) + beta KL(S(x) || S(x'))`` with ``x' = argmax KL(S(x)
    || S(x'))``; the guide G learns beside the student, and the gradient of the first term reaches it too.
    Official code: a ResNet-18 guides a WideResNet; beta 0 or 6, eps 0.031, 10 steps of 0.007. Here the guide has the
    student's architecture, as all networks that learn beside a student. ``preset: paper`` has its search and beta 6.
    """

    kind: Literal["lbgat"] = "lbgat"
    beta: float = 0.0
    guide: float = 1.0
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()
    auxiliary_models: ClassVar[tuple[str, ...]] = ("guide",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "beta": 6.0,
            "inner": {"eps": "0.031", "step": "0.007", "steps": 10, "start": "normal", "clip_start": False},
        }
    }

    def __post_init__(self) -> None:
        check_weights(beta=self.beta, guide=self.guide)
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``guide``, ``label`` and, where it has weight, ``robust``."""
        student = step.student
        adv = search_from_own_answer(step, self.inner)
        guiding, attacked = step.auxiliary_models["guide"](step.x), student(adv)
        terms = {
            "guide": self.guide * (attacked - guiding).square().mean(),
            "label": cross_entropy(guiding, step.y, label_smoothing=self.label_smoothing).mean(),
        }
        if self.beta:
            terms["robust"] = self.beta * kl(attacked, student(step.x)).mean()
        yield terms
