"""RRM: copy a robust teacher's representation on clean images; no attack at all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from overproof.functional import cosine, cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.replay import check_replays
from overproof.methods.representations import as_wide_as
from overproof.models.architectures.architecture import Architecture
from overproof.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class RRM(Method):
    """Robust Representation Matching (Vaishnavi et al., USENIX Security 2022).

    Formula: ``label_weight CE(S(x), y) + d(g_S(x), g_T(x))``, g the penultimate representation; ``d`` is ``-cos``, or
    ``||g_S - g_T|| / ||g_T||`` for ``relative_l2``. Clean images only: one student and one teacher pass per update; the
    teacher is asked once per batch. ``replays`` repeats the update on the same batch.
    Where the widths differ the student gets a trained linear adapter before its head, as the paper's ResNet-50; the
    run's ``model.json`` then names the architecture ``adapted``.
    Official code: label weight 0.005 (L-inf) or 0.00005 (L2) with the cosine, 0.001 with relative l2. A student that
    never sees an attack wants a strong evaluation.
    """

    kind: Literal["rrm"] = "rrm"
    distance: Literal["cosine", "relative_l2"] = "cosine"
    label_weight: float = 0.005
    replays: int = 1
    label_smoothing: float = 0.0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"distance": "cosine", "label_weight": 0.005},
        "paper_l2": {"distance": "cosine", "label_weight": 0.00005},
        "paper_imagenet": {"distance": "relative_l2", "label_weight": 0.001},
    }

    def __post_init__(self) -> None:
        check_replays(self.replays)
        check_label_smoothing(self.label_smoothing)
        if self.label_weight < 0:
            raise ValueError(f"label_weight cannot be negative, got {self.label_weight}")

    @property
    def updates(self) -> int:
        """One per replay."""
        return self.replays

    def adapt_student(self, student: Architecture, teachers: Mapping[str, Classifier]) -> Architecture:
        """Return the student, with an adapter where its representation is not as wide as the teacher's.

        Raises ``ValueError`` where the teacher has no penultimate layer.
        """
        return as_wide_as(student, teachers["robust"])

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``label`` and ``features``, once per replay."""
        with torch.no_grad():
            _, wanted = step.teachers["robust"].features(step.x)
        for _ in range(self.replays):
            logits, own = step.student.features(step.x)
            if self.distance == "cosine":
                distance = -cosine(own, wanted)
            else:
                distance = (own - wanted).norm(dim=1) / wanted.norm(dim=1)
            label = cross_entropy(logits, step.y, label_smoothing=self.label_smoothing)
            yield {"label": self.label_weight * label.mean(), "features": distance.mean()}
