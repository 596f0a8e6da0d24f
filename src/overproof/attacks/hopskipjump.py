"""HopSkipJump: a walk along the decision boundary, for models that give away neither gradients nor scores."""

import math
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import Ball, ball
from overproof.attacks.base import BaseAttack, Needs
from overproof.attacks.objectives import Misclassification
from overproof.attacks.radius import Length, Norm, NormField
from overproof.errors import InputError
from overproof.models.mode import in_mode

_TRIES = 100  # images of noise, before an example is given up
_HALVINGS = 15  # of a step that leaves the misclassified side, before the step is given up
_PROBE = 0.01  # length of a probe of the gradient, as a share of the distance from the clean image


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(BaseAttack):
    """Decision-based attack (Chen, Jordan and Wainwright 2020): asks only for predictions; l2 and linf.

    Starts from uniform noise and repeats: bisection towards the clean image, an estimate of the boundary's normal from
    ``samples * sqrt(iteration)`` random probes, a step along it of length ``distance / sqrt(iteration)``, halved until
    it is misclassified. The paper's probe of ``distance / dimensions`` drowns in the rounding of float32, so a probe is
    a hundredth of the distance here; bisection is finer than that by the paper's factor (1 / sqrt(dimensions), linf: 1
    / dimensions).

    Each example asks at most ``queries`` times (a judge's second opinion is not counted) and stops at its first
    misclassified image within ``eps``. One that finds none comes back as it was: this attack measures nothing beyond
    the ball.
    """

    kind: Literal["hopskipjump"] = "hopskipjump"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    queries: int = 2000
    samples: int = 100

    targeted: ClassVar[bool] = False
    needs: ClassVar[Needs] = "decisions"
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    transfers: ClassVar[bool] = False
    least_dimensions: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1 or self.samples < 1:
            raise InputError(f"queries and samples must be at least 1, got {self.queries} and {self.samples}")

    @override
    def search(self, model: nn.Module, x: Tensor, goal: Misclassification) -> Tensor:
        """Return images like ``x``, detached, inside the ball and [0, 1]: misclassified ones, or ``x`` itself."""
        with in_mode(model, training=False), torch.no_grad():
            return self._walk(_Oracle(x.detach(), goal, ball(self.norm, self.eps), self.queries))

    def _walk(self, oracle: "_Oracle") -> Tensor:
        point, walking = _noise(oracle)
        dimensions = oracle.x.shape[1:].numel()
        # The paper's ratio of probe to bisection: sqrt(dimensions) in l2, dimensions in linf.
        rounds = math.ceil(math.log2((math.sqrt(dimensions) if self.norm == "l2" else dimensions) / _PROBE))
        iteration = 0
        while True:
            iteration += 1
            point = self._boundary(oracle, point, walking, rounds)
            probes = oracle.left - 2 * rounds  # the rest takes the step and its point to the boundary
            walking = walking & oracle.open & (probes > 0)
            if not walking.any():
                return oracle.best
            distance = oracle.area.size(point - oracle.x)
            probes = probes.clamp(max=round(self.samples * math.sqrt(iteration)))
            normal = oracle.area.steepest(_normal(oracle, point, walking, probes, _PROBE * distance))
            point = _step(oracle, point, walking, normal, distance / math.sqrt(iteration))

    def _boundary(self, oracle: "_Oracle", point: Tensor, walking: Tensor, rounds: int) -> Tensor:
        """Return misclassified images next to the boundary, between the clean ones and misclassified ones."""
        far, x = point, oracle.x
        reach = torch.ones(len(x), dtype=x.dtype, device=x.device) if self.norm == "l2" else oracle.area.size(far - x)
        low, high = torch.zeros_like(reach), reach
        for _ in range(rounds):
            middle = (low + high) / 2
            share = _images(middle)
            between = (
                (x + share * (far - x)).clamp_(0, 1)
                if self.norm == "l2"
                else torch.minimum(torch.maximum(far, x - share), x + share)
            )
            misclassified = oracle.ask(between, walking)
            point = torch.where(_images(misclassified), between, point)
            low, high = torch.where(misclassified, low, middle), torch.where(misclassified, middle, high)
        return point


class _Oracle:
    """Says who is misclassified, within a budget per example, and keeps the first such image inside the ball."""

    def __init__(self, x: Tensor, goal: Misclassification, area: Ball, queries: int) -> None:
        self.x, self.area, self.best = x, area, x.clone()
        self.left = torch.full((len(x),), queries, device=x.device)
        self._goal, self._done = goal, torch.zeros(len(x), dtype=torch.bool, device=x.device)

    @property
    def open(self) -> Tensor:
        """Who has found nothing yet and may still ask, bool ``[N]``."""
        return ~self._done & (self.left > 0)

    def ask(self, points: Tensor, who: Tensor) -> Tensor:
        """Return which images ``[N, C, H, W]`` are misclassified, bool ``[N]``; those not asked or not open are not."""
        row = (who & self.open).nonzero().flatten()
        answer = torch.zeros_like(who)
        if len(row):
            asked = points[row]
            misclassified = self._goal.at(row).assess(asked)[1]
            self.left[row] -= 1
            inside = misclassified & (self.area.size(asked - self.x[row]) <= self.area.eps)
            self.best[row[inside]] = asked[inside]
            self._done[row] = inside
            answer[row] = misclassified
        return answer


def _noise(oracle: _Oracle) -> tuple[Tensor, Tensor]:
    """Return uniform noise that is misclassified ``[N, C, H, W]``, and for whom there was any, bool ``[N]``."""
    point, lacking = oracle.x, torch.ones(len(oracle.x), dtype=torch.bool, device=oracle.x.device)
    for _ in range(_TRIES):
        noise = torch.rand_like(oracle.x)
        misclassified = oracle.ask(noise, lacking)
        point = torch.where(_images(misclassified), noise, point)
        lacking = lacking & ~misclassified
        if not (lacking & oracle.open).any():
            break
    return point, ~lacking


def _normal(oracle: _Oracle, point: Tensor, walking: Tensor, probes: Tensor, length: Tensor) -> Tensor:
    """Return the estimated normal of the boundary, towards the misclassified side, of any length.

    Each example sends ``probes`` ``[N]`` of a ``length`` ``[N]``. The mean of the answers, plus or minus one, is taken
    off each of them, which keeps the paper's estimate from being swayed by a point that is not quite on the boundary.
    """
    sphere, counts = ball("l2", 1.0), torch.zeros_like(length)
    answers, directions, products = torch.zeros_like(length), torch.zeros_like(point), torch.zeros_like(point)
    for sent in count():
        asked = walking & oracle.open & (sent < probes)
        if not asked.any():
            break
        probe = (point + _images(length) * sphere.steepest(torch.randn_like(point))).clamp_(0, 1)
        direction = probe - point  # what [0, 1] left of it
        answer = (2.0 * oracle.ask(probe, asked) - 1) * asked
        counts += asked
        answers += answer
        directions += direction * _images(asked)
        products += direction * _images(answer)
    mean = answers / counts.clamp_min(1)
    # Where all answers agree, that difference is nothing but rounding: their mean direction is what is known.
    agreed = mean.abs() == 1
    return torch.where(_images(agreed), products, products - _images(mean) * directions)


def _step(oracle: _Oracle, point: Tensor, walking: Tensor, normal: Tensor, length: Tensor) -> Tensor:
    """Return the images one step further, as far as ``length`` ``[N]`` or a half, a quarter, ... is misclassified."""
    for _ in range(_HALVINGS):
        further = (point + _images(length) * normal).clamp_(0, 1)
        misclassified = oracle.ask(further, walking)
        point = torch.where(_images(misclassified), further, point)
        walking = walking & ~misclassified
        if not (walking & oracle.open).any():
            break
        length = length / 2
    return point


def _images(values: Tensor) -> Tensor:
    """Reshape ``[N]`` so that it broadcasts over images."""
    return values[:, None, None, None]
