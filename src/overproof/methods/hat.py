"""HAT: helper examples beyond the adversarial ones, labelled by a network that was trained without attacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.methods.distillation import check_weights
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.own_answer import search_from_own_answer


@dataclass(frozen=True, kw_only=True)
class HAT(Method):
    """Helper-based Adversarial Training (Rade and Moosavi-Dezfooli, ICLR 2022).

    Formula: ``CE(S(x), y) + beta KL(S(x) || S(x')) + gamma CE(S(x_h), y_h)`` with ``x' = argmax KL(S(x) || S(x'))``,
    the helper ``x_h = x + reach (x' - x)``, which is not clipped, and ``y_h = argmax T(x')`` of a clean teacher.
    Official code: as here; beta 2.5 and gamma 0.5 without further data (50 epochs), beta 3.5 and label smoothing 0.1
    with generated or unlabelled images (400 epochs); start 0.001 times a normal, not clipped. ``preset: paper`` is the
    first, ``paper_extra`` the second.
    """

    kind: Literal["hat"] = "hat"
    beta: float = 2.5
    gamma: float = 0.5
    reach: float = 3.5
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ("clean",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"beta": 2.5, "gamma": 0.5, "inner": {"steps": 10, "start": "normal", "clip_start": False}},
        "paper_extra": {
            "beta": 3.5,
            "gamma": 0.5,
            "label_smoothing": 0.1,
            "inner": {"steps": 10, "start": "normal", "clip_start": False},
        },
    }

    def __post_init__(self) -> None:
        check_weights(beta=self.beta, gamma=self.gamma)
        check_label_smoothing(self.label_smoothing)
        if not self.reach > 1:
            raise ValueError(f"reach is how far a helper lies, in lengths of x' - x, and above 1, got {self.reach}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``label``, ``robust`` and ``helper``."""
        student = step.student
        adv = search_from_own_answer(step, self.inner)
        with torch.no_grad():
            seen = step.teachers["clean"](adv).argmax(dim=1)
        clean, attacked, helped = student(step.x), student(adv), student(step.x + self.reach * (adv - step.x))
        yield {
            "label": cross_entropy(clean, step.y, label_smoothing=self.label_smoothing).mean(),
            "robust": self.beta * kl(attacked, clean).mean(),
            "helper": self.gamma * cross_entropy(helped, seen).mean(),
        }
