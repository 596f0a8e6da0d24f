"""A search in a box that need lie nowhere in particular, for outputs that satisfy linear inequalities."""

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
    gradients: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the best of each start's points ``[S, *shape]``, and by how much its worst inequality holds ``[S]``.

    Inequalities are ``weight @ outputs + bias >= 0``, ``[R, K]`` and ``[R]``. Half of the starts are corners of the box
    ``[*shape]``. With gradients of ``ask``, points follow the sign of that of the worst inequality, in steps that
    shrink; without, ever fewer numbers of a point are drawn anew, and what is better is kept.
    """
    x = torch.rand(starts, *lower.shape, generator=draws)
    x[: starts // 2] = x[: starts // 2].round()
    x = _placed(x, lower, upper)
    found, score = x, _worst(ask, x, weight, bias, gradients=False)[0]
    for step in range(steps):
        left = 1 - step / steps
        if gradients:
            direction = _worst(ask, x, weight, bias, gradients=True)[1]
            x = torch.clamp(x + direction.sign() * (upper - lower) * (0.25 * left), lower, upper)
        else:
            anew = torch.rand(x.shape, generator=draws) < max(left**3 / 2, 1 / lower.numel())
            corners = torch.rand(x.shape, generator=draws).round()
            x = torch.where(anew, _placed(corners, lower, upper), found)
        now, _ = _worst(ask, x, weight, bias, gradients=False)
        better = now > score
        found = torch.where(better.reshape(-1, *[1] * lower.dim()), x, found)
        score = torch.where(better, now, score)
        if bool((score >= 0).any()):
            break
    return found, score


def _placed(shares: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the points of the box at shares ``[S, *shape]`` of its sides; 0 and 1 are its very ends."""
    return torch.clamp(torch.lerp(lower.expand_as(shares), upper.expand_as(shares), shares), lower, upper)


def _worst(ask: Ask, x: Tensor, weight: Tensor, bias: Tensor, *, gradients: bool) -> tuple[Tensor, Tensor]:
    """Return by how much the worst inequality holds ``[S]``, and its gradient, or zeros.

    Outputs that are no numbers satisfy nothing.
    """
    with torch.enable_grad() if gradients else torch.no_grad():
        x = x.detach().requires_grad_(gradients)
        worst = (ask(x) @ weight.T + bias).amin(dim=1)
        slope = torch.autograd.grad(worst.sum(), x)[0] if gradients else torch.zeros_like(x)
    return worst.detach().nan_to_num(nan=-torch.inf), slope.nan_to_num()
