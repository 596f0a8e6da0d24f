"""The logarithm of a sum of exponentials along a dimension, as in a log-softmax.

It is convex and rises with every score. Below it is the tangent plane at the middle of the box; above, its value at the
upper corner. A log-softmax takes it off every score of its line alike, so in a margin of two scores it cancels exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.activations import Activation
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

_UNITS = 64  # of float64's last place, of the largest number met: what rounding may do to a height


@dataclass(frozen=True, kw_only=True, eq=False)
class LogSumExp(Activation):
    """``log(sum(exp(x)))`` along a dimension, counted without the batch, from the end; it is kept with the size 1."""

    dim: int

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        """Return the exact range: it rises with every score."""
        (x,) = inputs
        return Bounds(*(side.logsumexp(dim=self.dim, keepdim=True) for side in x))

    @override
    def open(self, before: Bounds) -> Tensor:
        return before.upper > before.lower

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        (x,) = before
        shape = list(x.lower.shape[1:])
        shape[self.dim] = 1
        rows = rows.dense(tuple(shape))
        tangent, height = self._below(x)
        level = _round_outward(self.forward(x).upper.double(), x.lower.dtype, up=True)
        below = F.relu(rows.weight)
        above = rows.weight - below
        # A weight of nothing must not meet an infinite height.
        shift = _times(below, height[rows.example]) + _times(above, level[rows.example])
        weight = below * tangent[rows.example]
        return [rows.plus(shift.flatten(1).sum(dim=1)).with_weight(weight)]

    def _below(self, x: Bounds) -> tuple[Tensor, Tensor]:
        """Return slopes ``[N, *shape]`` and the height at zero of planes below, found in float64 and rounded down."""
        kind, low, high = x.lower.dtype, x.lower.double(), x.upper.double()
        middle = (low / 2 + high / 2).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        exact = middle.softmax(dim=self.dim)
        slopes = exact.to(kind)
        value = middle.logsumexp(dim=self.dim, keepdim=True)
        reach = torch.maximum(low.abs(), high.abs())
        # What the rounded slopes may add anywhere in the box is taken off.
        lost = _times((exact - slopes.double()).abs(), reach).sum(dim=self.dim, keepdim=True)
        height = value - (exact * middle).sum(dim=self.dim, keepdim=True) - lost
        most = reach.amax(dim=self.dim, keepdim=True) + value.abs()
        height = height - _UNITS * torch.finfo(torch.float64).eps * most
        return slopes, _round_outward(height.nan_to_num(nan=-torch.inf), kind, up=False)


def _times(weight: Tensor, value: Tensor) -> Tensor:
    """Return the product, 0 where the weight is 0, whatever the value is."""
    return torch.where(weight == 0, torch.zeros((), dtype=weight.dtype, device=weight.device), weight * value)


def _round_outward(value: Tensor, kind: torch.dtype, *, up: bool) -> Tensor:
    """Return numbers of float64 in another precision, none of them nearer to the function."""
    end = torch.full((), torch.inf if up else -torch.inf, dtype=kind, device=value.device)
    return torch.nextafter(value.to(kind), end)
