"""IGDM: match the teacher's input gradient, through differences of logits across the image; wraps another method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from overproof.functional import kl
from overproof.methods.adaad import AdaAD
from overproof.methods.method import Method, Step, Terms
from overproof.methods.witness import RecordingNetwork, as_classifier, recorded, search_of
from overproof.methods.wrapping import WrappingMethod


@dataclass(frozen=True, kw_only=True)
class IGDM(WrappingMethod):
    """Indirect Gradient Distillation Module (Lee et al., ICLR 2025): one more term for any method with a search.

    Formula: the base's losses ``+ weight progress KL( softmax(T(x + d) - T(x - d)) || softmax(S(x + d) - S(x - d)) )``
    with ``d = x' - x`` of the base's search. ``x - d`` is not clipped. Answers at ``x + d`` that the base asked for are
    used again: one student pass more than the base, and one or two teacher passes.
    Official code (SAAD's repository): on AdaAD, weight 1 on CIFAR-10 and 10 on CIFAR-100, growing with the epoch; its
    call swaps step and radius (2/255 and 8/255), which we do not reproduce as a preset.
    """

    kind: Literal["igdm"] = "igdm"
    base: Method = field(default_factory=AdaAD)
    weight: float = 1.0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "weight": 1.0,
            "base": {"kind": "adaad", "inner": {"steps": 10, "start": "normal", "clip_start": False}},
        }
    }

    def __post_init__(self) -> None:
        if search_of(self.base) is None or "robust" not in self.base.roles:
            raise ValueError(f"igdm needs a base with a search and a robust teacher; {self.base.kind!r} is not one")
        if self.weight < 0:
            raise ValueError(f"weight cannot be negative, got {self.weight}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the base's terms and ``gradient``."""
        if not self.weight:
            yield from self.base.losses(step)
            return
        searched: list[Tensor] = []
        student, teacher = RecordingNetwork(step.student, searched), RecordingNetwork(step.teachers["robust"], searched)
        watched = replace(
            step, student=as_classifier(student), teachers={**step.teachers, "robust": as_classifier(teacher)}
        )
        for terms in recorded(self.base, searched).losses(watched):
            mirrored = step.x - (searched[-1] - step.x)
            own = student.answered() - step.student(mirrored)
            wanted = teacher.answered() - step.teachers["robust"](mirrored)
            gradient = self.weight * step.progress * kl(own, wanted).mean()
            # A base may have a term of this name (SAAD): both count.
            yield {**terms, "gradient": terms["gradient"] + gradient if "gradient" in terms else gradient}
