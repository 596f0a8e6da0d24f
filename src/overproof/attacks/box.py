"""A search without gradients in any box of inputs, for outputs that satisfy linear inequalities."""

from collections.abc import Callable

import torch
from torch import Tensor

Ask = Callable[[Tensor], Tensor]
"""A network as a function of inputs ``[S, *shape]`` that gives outputs ``[S, K]``."""


def search_box(
    ask: Ask,
    lower: Tensor,
    upper: Tensor,
    weight: Tensor,
    bias: Tensor,
    draws: torch.Generator,
    *,
    starts: int = 16,
    steps: int = 30,
) -> tuple[Tensor, Tensor]:
    """Return the best of each start's points ``[S, *shape]``, and by how much its worst inequality holds ``[S]``.

    Inequalities are ``weight @ outputs + bias >= 0``, ``[R, K]`` and ``[R]``. Half of the starts are corners of the box
    ``[*shape]``. Ever fewer numbers of a point are drawn again, and what is better is kept.
    """
    x = torch.rand(starts, *lower.shape, generator=draws)
    x[: starts // 2] = x[: starts // 2].round()
    best = _points_at(x, lower, upper)
    score = _worst(ask, best, weight, bias)
    for step in range(steps):
        left = 1 - step / steps
        again = torch.rand(x.shape, generator=draws) < max(left**3 / 2, 1 / lower.numel())
        corners = torch.rand(x.shape, generator=draws).round()
        x = torch.where(again, _points_at(corners, lower, upper), best)
        now = _worst(ask, x, weight, bias)
        better = now > score
        best = torch.where(better.reshape(-1, *[1] * lower.dim()), x, best)
        score = torch.where(better, now, score)
        if bool((score >= 0).any()):
            break
    return best, score


def _points_at(shares: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the points of the box at shares ``[S, *shape]`` of its sides; 0 and 1 are its very ends."""
    return torch.clamp(torch.lerp(lower.expand_as(shares), upper.expand_as(shares), shares), lower, upper)


def _worst(ask: Ask, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return by how much the worst inequality holds ``[S]``; outputs that are no numbers satisfy nothing."""
    with torch.no_grad():
        return (ask(x) @ weight.T + bias).amin(dim=1).nan_to_num(nan=-torch.inf)
