"""What an attack maximises: a score of pixels; for an evaluation also who is misclassified, and the passes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.errors import InputError
from overproof.functional import cross_entropy, difference, dlr, margin, targeted_dlr
from overproof.models.inference.fused import fused_for_attack
from overproof.models.mode import in_mode, no_gradient

Loss = Literal["cross_entropy", "margin", "dlr"]
Logits = Callable[[Tensor], Tensor]
"""Pixels ``[N, C, H, W]`` to logits ``[N, K]``."""


Score = Callable[[Tensor], Tensor]
"""Pixels ``[N, C, H, W]`` to a score ``[N]``; higher is worse for the model."""


class Objective(ABC):
    """A score ``[N]`` of pixels, higher is worse for the model, with what a search asks of it."""

    decides: ClassVar[bool] = False
    """Whether it knows which images are misclassified."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return the score ``[N]`` of pixels ``[N, C, H, W]``; gradients flow."""

    def ascend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score ``[N]`` and its gradient with respect to the pixels; the weights' ``.grad`` stays as it is.

        Raises ``InputError`` where the score does not depend on the pixels.
        """
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            score = self(point)
            (gradient,) = torch.autograd.grad(score.sum(), point, allow_unused=True)
        if gradient is None:
            raise InputError("the objective does not depend on the pixels, so there is no gradient to follow")
        return score.detach(), gradient

    def height(self, x: Tensor) -> Tensor:
        """Return the score ``[N]`` without a gradient."""
        with no_gradient():
            return self(x)

    def holding(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return what a model in eval mode is searched in."""
        return fused_for_attack(model)


@dataclass(frozen=True, eq=False)
class ScoreObjective(Objective):
    """A function of pixels as an objective."""

    score: Score

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return self.score(x)


def as_objective(given: Score) -> Objective:
    """Return an objective as it is, and any other function of pixels as one."""
    return given if isinstance(given, Objective) else ScoreObjective(given)


class Ascent(NamedTuple):
    """One forward and backward pass: score ``[N]``, gradient ``[N, C, H, W]``, who is misclassified, bool ``[N]``."""

    score: Tensor
    gradient: Tensor
    misclassified: Tensor


class Cost:
    """How often each of N examples went forward and backward, two int64 ``[N]``."""

    def __init__(self, examples: int, device: torch.device) -> None:
        self.forward = torch.zeros(examples, dtype=torch.int64, device=device)
        self.backward = torch.zeros_like(self.forward)


@dataclass(frozen=True, kw_only=True, eq=False)
class Misclassification(Objective):
    """Have N images misclassified: the higher the score ``[N]``, the nearer.

    ``search`` gives the logits that are searched on, in whatever precision; ``judge`` the logits that decide, asked
    only about examples whose searched margin is at most ``slack`` times their largest logit. Without a judge (a search
    on a surrogate) nothing is ever misclassified. With ``target`` ``[N]`` the score pulls towards that class; any wrong
    prediction counts as misclassified all the same. At most ``chunk`` examples are in one pass. ``index`` is each
    example's row in ``cost``.
    """

    search: Logits
    judge: Logits | None
    y: Tensor
    index: Tensor
    cost: Cost
    decides: ClassVar[bool] = True
    loss: Loss = "cross_entropy"
    target: Tensor | None = None
    slack: float = 0.0
    chunk: int = 1024

    @classmethod
    def on(
        cls, model: Logits, y: Tensor, *, loss: Loss = "cross_entropy", target: Tensor | None = None
    ) -> "Misclassification":
        """Return the goal of breaking one network that is searched and judged alike."""
        index, cost = torch.arange(len(y), device=y.device), Cost(len(y), y.device)
        return cls(search=model, judge=model, y=y, index=index, cost=cost, loss=loss, target=target)

    def __len__(self) -> int:
        return len(self.y)

    def at(self, keep: Tensor) -> "Misclassification":
        """Return the goal for the examples that a mask or an index tensor keeps."""
        target = None if self.target is None else self.target[keep]
        return replace(self, y=self.y[keep], index=self.index[keep], target=target)

    def towards(self, target: Tensor | None) -> "Misclassification":
        """Return the goal with other target classes ``[N]``, or none."""
        return replace(self, target=target)

    def with_loss(self, loss: Loss) -> "Misclassification":
        """Return the goal with another score."""
        return replace(self, loss=loss)

    def score(self, logits: Tensor) -> Tensor:
        """Return the score ``[N]`` of logits ``[N, K]``."""
        if self.target is None:
            return _UNTARGETED[self.loss](logits, self.y)
        if self.loss == "cross_entropy":
            return -cross_entropy(logits, self.target)
        return (targeted_dlr if self.loss == "dlr" else difference)(logits, self.y, self.target)

    @override
    def __call__(self, x: Tensor) -> Tensor:
        self._count(backward=torch.is_grad_enabled())
        return self.score(self.search(x))

    @override
    def ascend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return score and gradient, pass by pass over what fits into memory; no judge is asked."""
        score, gradient, _ = self.unjudged().take_gradient(x)
        return score, gradient

    @override
    def height(self, x: Tensor) -> Tensor:
        return self.unjudged().assess(x)[0]

    @override
    def holding(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return eval mode alone: what is decided is decided by the model as it is."""
        return in_mode(model, training=False)

    def take_gradient(self, x: Tensor) -> Ascent:
        """Return score, gradient with respect to the pixels, and who is misclassified, of one pass over each chunk."""
        return Ascent(*_join([goal._take_gradient(part) for goal, part in self._chunks(x)]))

    def unjudged(self) -> "Misclassification":
        """Return the goal whose search alone says who is misclassified, for points that cannot count anyway."""
        return self if self.judge is None else replace(self, judge=self.search)

    def confirmed(self, x: Tensor, misclassified: Tensor) -> Tensor:
        """Return which of the examples that the search calls misclassified, bool ``[N]``, the judge does as well."""
        if self.judge is None or self.judge is self.search:
            return misclassified
        rows = misclassified.nonzero().flatten()
        if len(rows):
            misclassified = misclassified.index_put(
                (rows,), torch.cat([g._judged(part) for g, part in self.at(rows)._chunks(x[rows])])
            )
        return misclassified

    def assess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return score ``[N]`` and who is misclassified, bool ``[N]``, without a gradient."""
        score, misclassified = _join([goal._assess(part) for goal, part in self._chunks(x)])
        return score, misclassified

    def logits(self, x: Tensor) -> Tensor:
        """Return the searched logits ``[N, K]`` without a gradient."""
        with torch.no_grad():
            parts = []
            for goal, part in self._chunks(x):
                goal._count(backward=False)
                parts.append(self.search(part))
            return torch.cat(parts)

    def _take_gradient(self, x: Tensor) -> Ascent:
        self._count(backward=True)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = self.search(point)
            score = self.score(logits)
            gradient = None
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), point, allow_unused=True)
        # No way back to the pixels, or one bad number, must not spoil an image; the reliability verdict speaks of both.
        gradient = torch.zeros_like(x) if gradient is None else gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return Ascent(score.detach(), gradient, self._misclassified(logits.detach(), x))

    def _assess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._count(backward=False)
        with torch.no_grad():
            logits = self.search(x)
        return self.score(logits), self._misclassified(logits, x)

    def _misclassified(self, logits: Tensor, x: Tensor) -> Tensor:
        if self.judge is None:
            return torch.zeros_like(self.y, dtype=torch.bool)
        if self.judge is self.search:
            return logits.argmax(dim=1) != self.y
        # Not "at most": the judge is also asked where the search gives no number.
        misclassified = ~(margin(logits, self.y) > self.slack * logits.abs().amax(dim=1))
        likely = misclassified.nonzero().flatten()
        if len(likely):
            misclassified[likely] = self.at(likely)._judged(x[likely])
        return misclassified

    def _judged(self, x: Tensor) -> Tensor:
        assert self.judge is not None
        self._count(backward=False)
        with torch.no_grad():
            return self.judge(x).argmax(dim=1) != self.y

    def _chunks(self, x: Tensor) -> Iterator[tuple["Misclassification", Tensor]]:
        if len(x) <= self.chunk:
            yield self, x
            return
        for start in range(0, len(x), self.chunk):
            part = slice(start, start + self.chunk)
            target = None if self.target is None else self.target[part]
            yield replace(self, y=self.y[part], index=self.index[part], target=target), x[part]

    def _count(self, *, backward: bool) -> None:
        self.cost.forward[self.index] += 1
        if backward:
            self.cost.backward[self.index] += 1


def ranked_target(logits: Tensor, y: Tensor, rank: int) -> Tensor:
    """Return the ``rank``-th likeliest wrong class of each example, int64 ``[N]``; rank 1 is the likeliest."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True)[:, rank - 1]


_UNTARGETED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": lambda logits, y: -margin(logits, y),
    "dlr": dlr,
}


def _join(parts: list[Ascent] | list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    return tuple(parts[0]) if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))
