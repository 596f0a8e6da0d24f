"""Projected gradient descent: the search every method trains with and every evaluation starts with."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import ball, per_example
from overproof.attacks.base import BaseAttack
from overproof.attacks.objectives import Loss, Objective, Score, as_objective
from overproof.attacks.radius import Length, Norm, NormField, OptionalLength, Radius
from overproof.data.draws import drawn
from overproof.errors import InputError
from overproof.models.mode import compiled_for_pixels


class Attack(Protocol):
    """Maximises an objective inside a ball, with the model in eval mode; never calls the model itself."""

    def __call__(self, model: nn.Module, x: Tensor, objective: Score, /) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class PGD(BaseAttack):
    """Steepest ascent with projection (Madry et al. 2018); one step from ``start: none`` is FGSM.

    ``step`` defaults to ``2.5 * eps / steps``. ``start`` is uniform in the ball, 0.001 times a standard normal (the
    official codes of TRADES, RSLAD, MTARD and AdaAD) or none; ``clip_start`` brings it into the ball and [0, 1] before
    the first step, which ARD's code does not. ``best`` keeps the iterate of the highest score instead of the last one;
    restarts always keep the best of their ends. With ``momentum`` the step follows a decaying sum of gradients, each
    divided by its mean absolute value (MI-FGSM at 1.0, Dong et al. 2018, equation 6). ``mode: train`` searches in the
    mode the training loop left the model in (ARD, IAD), so BatchNorm uses batch statistics and moves its running ones.
    ``ramp`` is the share of a training run over which eps and step grow linearly from 0 (small networks under a large
    eps do not learn otherwise). ``steps_ramp`` is the share over which the number of steps grows from 2 to ``steps``,
    each so long that they reach equally far together: one step alone overfits catastrophically (Wong et al. 2020).
    """

    kind: Literal["pgd"] = "pgd"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    step: OptionalLength = OptionalLength()
    steps: int = 10
    restarts: int = 1
    start: Literal["uniform", "normal", "none"] = "uniform"
    clip_start: bool = True
    best: bool = False
    momentum: float = 0.0
    mode: Literal["eval", "train"] = "eval"
    ramp: float = 0.0
    steps_ramp: float = 0.0

    losses: ClassVar[tuple[Loss, ...]] = ("cross_entropy", "margin", "dlr")
    needs_goal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ramp", "steps_ramp"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name} is a share of the run, in [0, 1], got {share}")
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")
        if not 0 <= self.momentum <= 1:
            raise InputError(f"momentum is the share kept of earlier gradients, in [0, 1], got {self.momentum}")
        if self.best and not self.clip_start:
            raise InputError("best may return the start, so it needs clip_start: a start outside [0, 1] is no image")

    @override
    def search(self, model: nn.Module, x: Tensor, objective: Score) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1]."""
        goal = as_objective(objective)
        with compiled_for_pixels(model), nullcontext() if self.mode == "train" else goal.holding(model):
            x_adv, score = self._ascend(x, goal)
            for _ in range(self.restarts - 1):
                other, other_score = self._ascend(x, goal)
                x_adv, score = _better(other, other_score, x_adv, score)
        return x_adv

    @override
    def runs(self) -> tuple[Self, int]:
        """Return the search of one start, and how many starts there are."""
        return replace(self, restarts=1), self.restarts

    @property
    @override
    def for_training(self) -> bool:
        """Whether it ramps, or searches in the mode of the training loop."""
        return bool(self.ramp or self.steps_ramp) or self.mode != "eval"

    @override
    def under(self, norm: Norm, eps: Radius) -> "PGD":
        """Return the search in another ball, without its step length, which was made for this one."""
        return self if (self.norm, self.eps) == (norm, eps) else replace(self, norm=norm, eps=eps, step=None)

    def at(self, progress: float) -> "PGD":
        """Return the search as it is at a point of a training run, from 0 to 1; itself once its ramps are over."""
        if progress >= max(self.ramp, self.steps_ramp):
            return self
        # A tenth of a thousandth keeps the radius positive at the very first update.
        share = max(progress / self.ramp, 1e-4) if progress < self.ramp else 1.0
        steps = self.steps
        if progress < self.steps_ramp:
            first = min(2, self.steps)
            steps = first + int(progress / self.steps_ramp * (self.steps + 1 - first))
        step = None if self.step is None else Radius(share * self.step * self.steps / steps)
        eps = self.eps if share == 1 else Radius(share * self.eps)
        return replace(self, eps=eps, step=step, steps=steps, ramp=0.0, steps_ramp=0.0)

    def _ascend(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """Return the end (or the best iterate) of one ascent, and its score ``[N]`` where something depends on it."""
        area = ball(self.norm, self.eps)
        length = self.step or 2.5 * self.eps / self.steps
        x = x_adv = x.detach()
        if self.start == "uniform":
            x_adv = x_adv + drawn(area.uniform, x)
        elif self.start == "normal":
            x_adv = x_adv + 0.001 * drawn(torch.randn_like, x)
        if self.clip_start and self.start != "none":
            x_adv = area.project(x_adv, x)
        memory = torch.zeros_like(x)
        best, best_score = x_adv, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        for _ in range(self.steps):
            score, gradient = objective.ascend(x_adv)
            if self.best:
                best, best_score = _better(x_adv, score, best, best_score)
            if self.momentum:
                size = gradient.flatten(1).abs().mean(dim=1).clamp_min(1e-12)
                gradient = memory = self.momentum * memory + gradient / per_example(size, x)
            direction = area.steepest(self._free(gradient, x_adv))
            x_adv = area.project(torch.add(x_adv, direction, alpha=length), x)
        if self.best or self.restarts > 1:
            best, best_score = _better(x_adv, objective.height(x_adv), best, best_score)
        else:
            best = x_adv
        return best, best_score

    def _free(self, gradient: Tensor, x_adv: Tensor) -> Tensor:
        """Return the gradient without the pixels at 0 or 1 that would leave: a step spent on them is lost.

        Under linf every pixel steps on its own, and projection does the same for nothing.
        """
        if self.norm == "linf":
            return gradient
        return gradient.masked_fill(((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0)), 0)


def _better(x: Tensor, score: Tensor, best: Tensor, best_score: Tensor) -> tuple[Tensor, Tensor]:
    improved = score > best_score
    return torch.where(per_example(improved, x), x, best), torch.where(improved, score, best_score)
