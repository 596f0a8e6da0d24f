"""SAAD's weight alone: count examples by how unsure the teacher is of them under attack; wraps another method."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from overproof.functional import entropy
from overproof.methods.method import Method, Step, Terms
from overproof.methods.rslad import RSLAD
from overproof.methods.witness import RecordingNetwork, as_classifier, recorded, search_of
from overproof.methods.wrapping import WrappingMethod


@dataclass(frozen=True, kw_only=True)
class SAADWeight(WrappingMethod):
    """Sample-wise weights of SAAD (Lee et al., TMLR 2026, Table 16) around any method with a robust teacher.

    Formula: each example's losses from the robust teacher times ``scale H(T(x'))``, the entropy of the teacher's answer
    at the image that the base's search found, in nats; ``from_least`` takes the batch's smallest entropy off before, as
    ``saad`` itself does (with a scale of 5). The weight has no gradient. An adversarial image that the teacher is sure
    of is one that does not transfer to it, and its answer there teaches nothing about robustness.
    Published for a ResNet-18 of an over-confident teacher, under AutoAttack: ARD 40.8 to 48.1, RSLAD 40.6 to 48.5,
    AdaAD 43.3 to 50.0. The teacher is asked about x' once more where the base does not ask.
    """

    kind: Literal["saad_weight"] = "saad_weight"
    base: Method = field(default_factory=RSLAD)
    scale: float = 1.0
    from_least: bool = False

    def __post_init__(self) -> None:
        if search_of(self.base) is None or not self.base.weighable:
            raise ValueError(
                "saad_weight needs a base that searches and whose losses from a robust teacher it can weigh "
                f"(such as ard, rslad, adaad, iad or mtard); {self.base.kind!r} is not one"
            )
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the base's terms, weighed."""
        searched: list[Tensor] = []
        teacher = RecordingNetwork(step.teachers["robust"], searched)

        def weights() -> Tensor:
            unsure = entropy(teacher.answered()).detach()
            return self.scale * (unsure - step.part.least(unsure) if self.from_least else unsure)

        teachers = {**step.teachers, "robust": as_classifier(teacher)}
        yield from recorded(self.base, searched).losses(replace(step, teachers=teachers, weights=weights))
