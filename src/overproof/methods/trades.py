"""TRADES: accuracy on clean images, and agreement with oneself around them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.own_answer import search_from_own_answer


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    """TRADES (Zhang et al., ICML 2019): trade accuracy for smoothness of the student's own answer.

    Formula: ``CE(S(x), y) + beta KL(S(x) || S(x'))`` with ``x' = argmax KL(S(x) || S(x'))``; the gradient flows into
    both sides of the outer KL.
    Official code: start 0.001 times a normal, not clipped; a second clean forward pass for the KL's target, which moves
    BatchNorm once more; ``preset: paper`` does so, with its eps 0.031 and step 0.007.
    Deviations by default: one clean forward pass serves both terms. ``detach_target`` stops the gradient of the target.
    """

    kind: Literal["trades"] = "trades"
    beta: float = 6.0
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    clean_target_forward: Literal["shared", "again"] = "shared"
    detach_target: bool = False
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "beta": 6.0,
            "clean_target_forward": "again",
            "inner": {"eps": "0.031", "step": "0.007", "steps": 10, "start": "normal", "clip_start": False},
        }
    }

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)
        if self.beta < 0:
            raise ValueError(f"beta weighs the robust term and cannot be negative, got {self.beta}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``label`` and ``robust``."""
        student = step.student
        adv = search_from_own_answer(step, self.inner)
        clean = student(step.x)
        attacked = student(adv)
        target = clean if self.clean_target_forward == "shared" else student(step.x)
        robust = kl(attacked, target.detach() if self.detach_target else target)
        yield {
            "label": cross_entropy(clean, step.y, label_smoothing=self.label_smoothing).mean(),
            "robust": self.beta * robust.mean(),
        }
