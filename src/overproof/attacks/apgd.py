"""APGD: gradient ascent that sets its own step length; the core of the standard evaluation."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import Ball, ball, per_example
from overproof.attacks.base import BaseAttack
from overproof.attacks.objectives import Loss, Misclassification
from overproof.attacks.radius import Length, NormField
from overproof.errors import InputError
from overproof.models.mode import in_mode


@dataclass(frozen=True, kw_only=True)
class APGD(BaseAttack):
    """Auto-PGD (Croce and Hein 2020, algorithm 1); under l1 its sparse form (Croce and Hein 2021, algorithm 1).

    One ascent of ``steps`` from a random start; the step is shortened, and the ascent taken up again from its best
    point, wherever progress stalls. A misclassified example leaves the ascent at once. Further ``restarts`` run on the
    examples still robust. Returns the misclassified point where there is one, else the point of the highest score.
    """

    kind: Literal["apgd"] = "apgd"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    steps: int = 100
    restarts: int = 1

    losses: ClassVar[tuple[Loss, ...]] = ("cross_entropy", "margin", "dlr")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")

    @override
    def search(self, model: nn.Module, x: Tensor, goal: Misclassification) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1]."""
        search, x = self._staged if self.norm == "l1" else self._dense, x.detach()
        with in_mode(model, training=False):
            result = search(x, goal)
            for _ in range(self.restarts - 1):
                robust = (~result.misclassified).nonzero().flatten()
                if len(robust):
                    result.keep_better(robust, search(x[robust], goal.at(robust)))
        return result.x

    @override
    def runs(self) -> tuple[Self, int]:
        """Return the search of one start, and how many starts there are."""
        return replace(self, restarts=1), self.restarts

    def _dense(self, x: Tensor, goal: Misclassification) -> "_Best":
        area = ball(self.norm, self.eps)
        draw = torch.empty_like(x).uniform_(-1, 1) if self.norm == "linf" else torch.randn_like(x)
        start = area.project(x + draw * per_example(self.eps / area.size(draw).clamp_min(1e-12), x), x)
        return _ascend(_Dense(area, self.steps), x, start, goal)

    def _staged(self, x: Tensor, goal: Misclassification) -> "_Best":
        """Ascend in balls of 3, 2 and 1 eps: pixels are found in a wide one, and most of them given up again.

        A point outside the ball of one eps breaks nothing, so the judge waits for the last stage. The stages take 0.3,
        0.3 and 0.4 of the steps, each at least one.
        """
        start, early = x + torch.randn_like(x), max(int(0.3 * self.steps), 1)
        for times in (3, 2):
            area = ball("l1", times * self.eps)
            rule = _Sparse(area, early, first=times == 3)
            start = _ascend(rule, x, area.project(start, x), replace(goal, judge=None)).x
        area, rest = ball("l1", self.eps), max(self.steps - 2 * early, 1)
        return _ascend(_Sparse(area, rest, first=False), x, area.project(start, x), goal)


class _Best(NamedTuple):
    """Where an ascent ended: images ``[N, ...]``, their scores ``[N]``, and who is misclassified, bool ``[N]``."""

    x: Tensor
    score: Tensor
    misclassified: Tensor

    def keep_better(self, rows: Tensor, again: "_Best") -> None:
        """Take over, in place, what a later ascent of these rows broke or lifted higher."""
        lifted = again.misclassified | (again.score > self.score[rows])
        for kept, new in zip(self, again, strict=True):
            kept[rows[lifted]] = new[lifted]


Memory = dict[str, Tensor]
"""What the ascent of n examples remembers, each ``[n, ...]``; ``row`` is an example's place in the batch."""


@dataclass(frozen=True)
class _Rule(ABC):
    """How an ascent steps and when it looks back."""

    area: Ball
    steps: int

    @abstractmethod
    def begin(self, memory: Memory) -> None:
        """Add what the rule itself remembers."""

    @abstractmethod
    def advanced(self, memory: Memory) -> Tensor:
        """Return the next points, inside the ball."""

    @abstractmethod
    def look_back(self, memory: Memory, interval: int) -> None:
        """Change the step, ``interval`` steps after the last time; go back to the best point where that helps."""

    @abstractmethod
    def intervals(self) -> list[int]:
        """Return how many steps lie between one look back and the next, until the steps are used up."""


def _ascend(rule: _Rule, x: Tensor, start: Tensor, goal: Misclassification) -> _Best:
    score, gradient, misclassified = goal.take_gradient(start)
    result = _Best(start.clone(), score.clone(), torch.zeros_like(misclassified))
    memory = {"row": torch.arange(len(x), device=x.device), "x": x, "at": start, "before": start}
    memory |= {"score": score, "gradient": gradient, "misclassified": misclassified}
    memory |= {"best": start, "best_score": score, "best_gradient": gradient}
    rule.begin(memory)
    for interval in rule.intervals():
        for _ in range(interval):
            memory, goal = _without_misclassified(result, memory, goal)
            if not len(goal):
                return result
            _advance(rule.advanced(memory), memory, goal)
        rule.look_back(memory, interval)
    memory, _ = _without_misclassified(result, memory, goal)
    result.x[memory["row"]], result.score[memory["row"]] = memory["best"], memory["best_score"]
    return result


def _without_misclassified(result: _Best, memory: Memory, goal: Misclassification) -> tuple[Memory, Misclassification]:
    """Write the misclassified points down; return memory and goal of the examples that stand."""
    misclassified = memory["misclassified"]
    if not misclassified.any():
        return memory, goal
    rows = memory["row"][misclassified]
    result.x[rows], result.score[rows], result.misclassified[rows] = (
        memory["at"][misclassified],
        memory["score"][misclassified],
        True,
    )
    keep = (~misclassified).nonzero().flatten()
    return {name: part[keep] for name, part in memory.items()}, goal.at(keep)


def _advance(point: Tensor, memory: Memory, goal: Misclassification) -> None:
    """Move to the point and see how high it is."""
    ascent = goal.take_gradient(point)
    if "rises" in memory:
        memory["rises"] = memory["rises"] + (ascent.score > memory["score"])
    memory["before"], memory["at"] = memory["at"], point
    memory |= ascent._asdict()
    higher = ascent.score > memory["best_score"]
    _take(memory, higher, best="at", best_score="score", best_gradient="gradient")


def _take(memory: Memory, where: Tensor, **sources: str) -> None:
    """Overwrite each named memory with another one for the examples of a mask ``[n]``."""
    for name, source in sources.items():
        memory[name] = torch.where(per_example(where, memory[name]), memory[source], memory[name])


class _Dense(_Rule):
    """linf and l2: steps of 2 eps with momentum, halved where no more than three quarters of the steps rose."""

    @override
    def begin(self, memory: Memory) -> None:
        score = memory["score"]
        memory["length"] = torch.full_like(score, 2 * self.area.eps)
        memory["rises"] = torch.zeros_like(score)
        memory["best_before"] = score
        # The first interval never counts as stalled on its best score alone: halved at the last check by convention.
        memory["halved"] = torch.ones_like(score, dtype=torch.bool)
        memory["momentum"] = torch.zeros_like(score)

    @override
    def advanced(self, memory: Memory) -> Tensor:
        x, at = memory["x"], memory["at"]
        step = per_example(memory["length"], x) * self.area.steepest(memory["gradient"])
        aim = self.area.project(at + step, x)
        momentum = per_example(memory["momentum"], x)  # none yet at the first step
        memory["momentum"] = torch.full_like(memory["momentum"], 0.25)
        return self.area.project(at + (1 - momentum) * (aim - at) + momentum * (at - memory["before"]), x)

    @override
    def look_back(self, memory: Memory, interval: int) -> None:
        stalled = memory["rises"] <= 0.75 * interval
        stuck = ~memory["halved"] & (memory["best_before"] >= memory["best_score"])
        halve = stalled | stuck
        memory["length"] = torch.where(halve, memory["length"] / 2, memory["length"])
        _take(memory, halve, at="best", gradient="best_gradient")
        memory["halved"], memory["best_before"] = halve, memory["best_score"]
        memory["rises"] = torch.zeros_like(memory["rises"])

    @override
    def intervals(self) -> list[int]:
        """Return intervals of 0.22 of the steps, then 0.03 shorter each time, down to 0.06 (section 3.2)."""
        interval, shorter, shortest = (max(int(share * self.steps), 1) for share in (0.22, 0.03, 0.06))
        checkpoints: list[int] = []
        while sum(checkpoints) < self.steps:
            checkpoints.append(min(interval, self.steps - sum(checkpoints)))
            interval = max(interval - shorter, shortest)
        return checkpoints


@dataclass(frozen=True)
class _Sparse(_Rule):
    """l1: steps of eps spread over the steepest pixels; their share follows the support of the best point.

    Only the ``first`` stage starts from noise, with a fifth of the pixels; others know a support from the one before.
    """

    first: bool

    @override
    def begin(self, memory: Memory) -> None:
        score = memory["score"]
        memory["length"] = torch.full_like(score, self.area.eps)
        if self.first:
            memory["density"] = torch.full_like(score, 0.2)
            memory["support"] = torch.full_like(score, memory["x"].shape[1:].numel())
        else:
            self._follow(memory, "at")

    @override
    def advanced(self, memory: Memory) -> Tensor:
        flat = memory["gradient"].flatten(1)
        pixels = flat.shape[1]
        weakest = ((1 - memory["density"]) * pixels).clamp(0, pixels - 1).long()
        bar = flat.abs().sort(dim=1).values.gather(1, weakest[:, None])
        signs = torch.where(flat.abs() >= bar, flat.sign(), 0)
        signs = signs / (signs.abs().sum(dim=1, keepdim=True) + 1e-10)
        step = memory["length"][:, None] * signs
        return self.area.project(memory["at"] + step.view_as(memory["at"]), memory["x"])

    @override
    def look_back(self, memory: Memory, interval: int) -> None:
        before = memory["support"]
        self._follow(memory, "best")
        sparser = memory["support"] < 0.95 * before
        shorter = (memory["length"] / 1.5).clamp_min(self.area.eps / 10)
        memory["length"] = torch.where(sparser, self.area.eps, shorter)
        _take(memory, sparser, at="best", gradient="best_gradient")

    def _follow(self, memory: Memory, point: str) -> None:
        """Set the support to the number of pixels that a point changes, and the density to two thirds of them."""
        moved = (memory[point] != memory["x"]).flatten(1)
        memory["support"] = moved.sum(dim=1).to(memory["score"].dtype)
        memory["density"] = memory["support"] / moved.shape[1] / 1.5

    @override
    def intervals(self) -> list[int]:
        interval = max(int(0.04 * self.steps), 1)
        return [interval] * (self.steps // interval) + [self.steps % interval] * bool(self.steps % interval)
