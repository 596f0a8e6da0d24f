"""Faithful distillation: the teacher's answer, and a proven bound on the gap of the confidences around it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from overproof.attacks.ball import Threat
from overproof.attacks.pgd import PGD
from overproof.bounds.crown import bound
from overproof.bounds.region import Bounds
from overproof.bounds.softmax import logsumexp, separate
from overproof.bounds.spec import margins
from overproof.functional import cross_entropy
from overproof.methods.certified import (
    between,
    check_certified,
    check_shares,
    exactly,
    graph_of,
    prepare,
    propagated,
    region_of,
    risen,
)
from overproof.methods.distillation import check_mix, check_weights, softened_kl
from overproof.methods.method import Method, Step, Terms


@dataclass(frozen=True, kw_only=True)
class Faithful(Method):
    """Distillation for a small proven gap between the teacher's confidence and the student's, all around an image.

    The project's own specification, after the questions of Lamb et al. (2023, "Faithful Knowledge Distillation",
    arXiv 2306.04431); their loss is not public, and this is not claimed to be it.
    Formula: ``alpha t^2 KL(T^t(x) || S^t(x)) + (1 - alpha) CE(S(x), y) + kappa g``. g is the mean, over the images that
    the teacher gets right, of a bound D on ``|f_T - f_S|`` over the ball, f the confidence in y, from bounds of each
    network's margins. With ``gap: plain`` it is D itself, which nears 1 where bounds are loose, and then passes hardly
    a gradient. With ``gap: log`` it is ``-log(1 - D)``, at least D, and where the teacher is certain the cross-entropy
    of the student's worst logits (``ibp``).
    Over the share ``ramp`` of the run eps and kappa grow from 0. The student's bounds are IBP's, with a share ``beta``
    of CROWN-IBP's that goes from its first to its second value. The teacher's are computed once per batch, without
    gradients, by ``teacher_bounds``. A teacher that was not trained to be bounded (by PGD, say) has at large eps bounds
    of 0 and 1 by any of these, and no student has a small proven gap to it; ``clean`` takes its clean answer for the
    range: a bound on the distance from that answer, not on the gap.
    With ``inner``, a search for a gap, the share ``attacked`` of g is the gap found, a lower bound; the rest stays the
    upper one. ``scaled_start`` and ``balance`` as in ``ibp``.
    """

    kind: Literal["faithful"] = "faithful"
    alpha: float = 0.5
    temperature: float = 1.0
    threat: Threat = field(default_factory=Threat)
    ramp: float = 0.5
    kappa: float = 2.0
    gap: Literal["log", "plain"] = "log"
    beta: tuple[float, float] = (0.0, 0.0)
    teacher_bounds: Literal["ibp", "crown_ibp", "crown", "clean"] = "ibp"
    inner: PGD | None = None
    attacked: float = 0.0
    balance: float = 0.0
    scaled_start: bool = False

    def __post_init__(self) -> None:
        check_mix(self.alpha, self.temperature)
        check_certified(self.threat.norm, self.ramp, self.balance)
        check_weights(kappa=self.kappa)
        check_shares(beta=self.beta, attacked=(self.attacked,))
        if (self.inner is None) != (self.attacked == 0):
            raise ValueError("attacked is the share of the gap that the search inner finds; give both or neither")

    @property
    def bounds_teachers(self) -> bool:
        """Whether the teacher is bounded, and not only asked at the images."""
        return self.teacher_bounds != "clean"

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``distil``, ``label`` (below alpha 1), ``gap``, ``attacked`` with ``inner``, ``balance``."""
        prepare(step, scaled_start=self.scaled_start)
        share = risen(step.progress, self.ramp)
        target, logits = step.teachers["robust"](step.x), step.student(step.x)
        terms = {"distil": self.alpha * softened_kl(logits, target, self.temperature, "batch").mean()}
        if self.alpha < 1:
            terms["label"] = (1 - self.alpha) * cross_entropy(logits, step.y).mean()
        right = (target.argmax(dim=1) == step.y).to(step.x)
        weight = self.kappa * share * right / step.part.mean(right.mean()).clamp_min(1e-9)
        around = propagated(step.student, step.x, share * self.threat.eps, self.threat.norm)
        own = around.margins(step.y, between(self.beta, share))
        bounded = self._penalty(self._of_teacher(step, target, share * self.threat.eps), own)
        terms["gap"] = (1 - self.attacked) * (weight * bounded).mean()
        if self.inner:
            terms["attacked"] = self.attacked * (weight * self._found(step, self.inner.at(step.progress))).mean()
        yield {**terms, **around.balanced((1 - share) * self.balance)}

    def _of_teacher(self, step: Step, target: Tensor, eps: float) -> Bounds:
        """Return bounds of the teacher's margins, ``[N, K - 1]``."""
        if self.teacher_bounds == "clean":
            return _at_point(target, step.y)
        teacher, region = step.teachers["robust"], region_of(step.x, eps, self.threat.norm)
        spec = margins(step.y, target.shape[1])
        with torch.no_grad(), exactly(step.x):
            bounds = bound(graph_of(teacher, step.x), region, spec, self.teacher_bounds)
        return Bounds(-bounds.upper, -bounds.lower)

    def _found(self, step: Step, search: PGD) -> Tensor:
        """Return the largest penalty that a search finds, ``[N]``; it maximises what is descended."""
        teacher, student, y = step.teachers["robust"], step.student, step.y

        def penalty(x: Tensor) -> Tensor:
            return self._penalty(_at_point(teacher(x), y), _at_point(student(x), y))

        return penalty(search(student, step.x, penalty))

    def _penalty(self, teacher: Bounds, student: Bounds) -> Tensor:
        """Return what is descended for a bound on the gap, ``[N]``, from bounds of both networks' margins."""
        if self.gap == "plain":
            gap = separate(teacher, student)
            return torch.maximum(-gap.lower, gap.upper)
        t, s = logsumexp(teacher), logsumexp(student)
        # 1 - D is the smaller of two sums of probabilities: the student is less confident than the teacher, or more.
        less = torch.logaddexp(F.logsigmoid(t.lower), F.logsigmoid(-s.upper))
        more = torch.logaddexp(F.logsigmoid(s.lower), F.logsigmoid(-t.upper))
        return -torch.minimum(less, more)


def _at_point(logits: Tensor, y: Tensor) -> Bounds:
    """Return the margins of logits ``[N, K]`` as bounds of no width, ``[N, K - 1]``."""
    values = -(margins(y, logits.shape[1]).to(logits) @ logits[:, :, None]).squeeze(2)
    return Bounds(values, values)
