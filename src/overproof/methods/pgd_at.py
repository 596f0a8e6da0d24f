"""Adversarial training: cross-entropy on the worst image a search finds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class PGDAT(Method):
    """Adversarial training of Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks".

    Formula: ``CE(S(x'), y)`` with ``x' = argmax CE(S(x'), y)`` over the ball.
    Official codes differ in start (uniform or 0.001 times a normal) and in BatchNorm mode during the search; both are
    options of ``inner``. AdaAD's baseline also makes a clean forward pass that only moves BatchNorm statistics; we
    leave it out.
    """

    kind: Literal["pgd_at"] = "pgd_at"
    inner: PGD = field(default_factory=PGD)
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the term ``adv``."""
        adv = self.inner.at(step.progress)(step.student, step.x, lambda x: cross_entropy(step.student(x), step.y))
        logits = step.student(adv)
        yield {"adv": cross_entropy(logits, step.y, label_smoothing=self.label_smoothing).mean()}
