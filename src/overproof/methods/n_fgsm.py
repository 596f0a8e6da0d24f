"""N-FGSM: one step from strong noise, and nothing is clipped: adversarial training at the price of two passes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from overproof.attacks.ball import Threat, ball
from overproof.attacks.objectives import as_objective
from overproof.clamp import clamp
from overproof.data.draws import drawn
from overproof.functional import cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class NFGSM(Method):
    """Noise-FGSM (de Jorge et al., NeurIPS 2022, "Make some noise").

    Formula: ``CE(S(x'), y)`` with ``x' = x + n + reach eps sign grad CE(S(x + n), y)``, ``n`` uniform in ``[-noise eps,
    noise eps]``; the perturbation is not projected onto the ball, so it is up to ``noise + reach`` eps long. With the
    noise of 2 one step does not overfit catastrophically where ``fast_at`` does. Under l2 and l1 the noise is uniform
    in the ball and the step the steepest one, which the paper does not have.
    Official code: ``x + n`` and ``x'`` are clamped to [0, 1]; BatchNorm is in train mode in both passes, here in eval
    mode in the first (``mode: train`` as there).
    """

    kind: Literal["n_fgsm"] = "n_fgsm"
    noise: float = 2.0
    reach: float = 1.0
    mode: Literal["eval", "train"] = "eval"
    threat: Threat = field(default_factory=Threat)
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"noise": 2.0, "reach": 1.0, "mode": "train"}}

    def __post_init__(self) -> None:
        if not self.noise >= 0 or not self.reach > 0:
            raise ValueError(
                f"noise and reach are in units of eps, 0 or more and above 0, got {self.noise} and {self.reach}"
            )
        check_label_smoothing(self.label_smoothing)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the term ``adv``."""
        student, eps = step.student, self.threat.eps
        area = ball(self.threat.norm, eps)
        noisy = clamp(step.x + self.noise * drawn(area.uniform, step.x), 0, 1)
        objective = as_objective(lambda x: cross_entropy(student(x), step.y))
        if self.mode == "train":
            _, gradient = objective.ascend(noisy)
        else:
            with objective.holding(student):
                _, gradient = objective.ascend(noisy)
        adv = clamp(torch.add(noisy, area.steepest(gradient), alpha=self.reach * eps), 0, 1)
        yield {"adv": cross_entropy(student(adv), step.y, label_smoothing=self.label_smoothing).mean()}
