"""Natural training: cross-entropy on clean images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from overproof.functional import cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class Natural(Method):
    """Cross-entropy on clean images; the baseline without a teacher and without an attack.

    Formula: ``CE(S(x), y)``.
    Deviations: none; ``label_smoothing`` is off by default.
    """

    kind: Literal["natural"] = "natural"
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the term ``label``."""
        logits = step.student(step.x)
        yield {"label": cross_entropy(logits, step.y, label_smoothing=self.label_smoothing).mean()}
