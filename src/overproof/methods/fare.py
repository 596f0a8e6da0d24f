"""FARE: keep an encoder's representation where it was, under attack, without a label."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.distillation import check_weights
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.representations import as_wide_as
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class FARE(Method):
    """Unsupervised adversarial fine-tuning of an encoder (Schlarmann et al., ICML 2024, "Robust CLIP").

    Formula: ``sum_d (g_S(x')_d - g_T(x)_d)^2 + label_weight CE(S(x), y)`` with ``x'`` maximising the first term, g the
    penultimate representation and T the frozen original that the student begins with (``init: teacher:clean``).
    At ``label_weight`` 0, as in the paper, no label is read and the head has no gradient: all that was built on the
    representation goes on working (``training.freeze`` of the last layer keeps weight decay from it too). Where the
    widths differ the student gets a trained linear adapter before its head.
    Official code: 10 steps, AdamW at 1e-5, weight decay 1e-4, two epochs of ImageNet.
    """

    kind: Literal["fare"] = "fare"
    label_weight: float = 0.0
    inner: PGD = field(default_factory=PGD)
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ("clean",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"label_weight": 0.0, "inner": {"steps": 10}}}

    def __post_init__(self) -> None:
        check_weights(label_weight=self.label_weight)
        check_label_smoothing(self.label_smoothing)

    def adapt_student(self, student: Architecture, teachers: Mapping[str, Classifier]) -> Architecture:
        """Return the student, with an adapter where its representation is not as wide as the original's.

        Raises ``ValueError`` where the original has no penultimate layer.
        """
        return as_wide_as(student, teachers["clean"])

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``features`` and, where it has weight, ``label``."""
        student = step.student
        with torch.no_grad():
            _, wanted = step.teachers["clean"].features(step.x)

        def distance(x: Tensor) -> Tensor:
            return (student.features(x)[1] - wanted).square().sum(dim=1)

        adv = self.inner.at(step.progress)(student, step.x, distance)
        logits, own = student.features(adv)
        # Of no weight: every weight that learns has a gradient, which processes in step with each other wait for.
        terms = {"features": (own - wanted).square().sum(dim=1).mean() + 0 * logits.mean()}
        if self.label_weight:
            label = cross_entropy(student(step.x), step.y, label_smoothing=self.label_smoothing)
            terms["label"] = self.label_weight * label.mean()
        yield terms
