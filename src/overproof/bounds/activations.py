"""The operators that are not affine, and the linear functions that hold them from below and above.

Rows pass through an activation at a loss: where a row's weight is positive the value is replaced by a linear function
below it, where it is negative by one above it (CROWN, Zhang et al. 2018). Any slope between the two of a ReLU holds it
from below; which is best depends on the row (alpha-CROWN, Xu et al. 2021).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.operators import Operator
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds, Pair
from overproof.clamp import clamp


class Activation(Operator):
    """A non-linear operator, mostly with one input."""

    @abstractmethod
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        """Return rows over each input, whose sum is nowhere above the given rows for inputs within ``before``.

        ``slope``, of the shape of the rows' weights, replaces the lower slopes of a piecewise linear activation.
        """

    @abstractmethod
    def open(self, before: Bounds) -> Tensor:
        """Return where better bounds of an input would give better rows, bool ``[N, *shape]``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReLU(Activation):
    """``max(x, leak * x)``, leak in [0, 1); 0 is the plain ReLU."""

    leak: float = 0.0

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        (x,) = inputs
        return Bounds(F.leaky_relu(x.lower, self.leak), F.leaky_relu(x.upper, self.leak))

    @override
    def open(self, before: Bounds) -> Tensor:
        return (before.lower < 0) & (before.upper > 0)

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        (x,) = before
        chord, shift = self.above(x)
        # The gradient of a weight of zero belongs to ``above``. With ``torch.where`` it would be the same, and slower.
        below = F.relu(rows.weight)
        above = rows.weight - below
        upper = rows.values(chord)
        lower = rows.values(self.slope(x)) if slope is None else self._held(slope, rows, x)
        rows = rows.plus(rows.with_weight(above).dot(shift))
        return [rows.with_weight(below * lower + above * upper)]

    def slope(self, before: Bounds) -> Tensor:
        """Return the slope of the line through zero that is below and nearest in area, ``[N, *shape]``."""
        return torch.full_like(before.upper, self.leak).masked_fill(before.upper > -before.lower, 1.0)

    def above(self, before: Bounds) -> tuple[Tensor, Tensor]:
        """Return slope and height at zero of the least line above: the chord where the sign is open."""
        lower, upper = before.lower.clamp(max=0), before.upper.clamp(min=0)
        # Where the sign is known, one end is zero and the chord is the function itself; at [0, 0] any line would do.
        share = upper / (upper - lower).clamp(min=torch.finfo(upper.dtype).tiny)
        if not self.leak:
            return share, -lower * share
        return share + self.leak * (1 - share), -lower * share * (1 - self.leak)

    def _held(self, slope: Tensor, rows: LinearBounds, before: Bounds) -> Tensor:
        """Return the given slopes where the sign is open, elsewhere the function's own; none below the leak."""
        closed = torch.where(self.open(before), torch.nan, self.slope(before))
        own = rows.values(closed)
        return torch.where(own.isnan(), clamp(slope, low=self.leak), own)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Activation):
    """The largest value under each window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    beyond: Pair = (0, 0)  # further lines below and columns to the right, which the last windows reach

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(*(self._windows(side).amax(dim=2) for side in inputs[0]))

    @override
    def open(self, before: Bounds) -> Tensor:
        return before.upper > before.lower

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        """Below: the input with the largest lower bound. Above: the same where no other can exceed it, else constant.

        Any input of a window is below the maximum, and the largest upper bound of them is above it.
        """
        (x,) = before
        channels, height, width = x.lower.shape[1:]
        lowers, uppers = self._windows(x.lower), self._windows(x.upper)
        floor, winner = lowers.max(dim=2, keepdim=True)
        wins = (uppers.scatter(2, winner, -torch.inf).amax(dim=2, keepdim=True) <= floor).squeeze(2)
        numbers = torch.arange(height * width, dtype=torch.float64, device=winner.device).view(1, 1, height, width)
        places = self._windows(numbers).long().expand_as(lowers).gather(2, winner).squeeze(2)
        rows = rows.dense(tuple(wins.shape[1:]))
        above = (rows.weight - F.relu(rows.weight)) * ~wins[rows.example]
        bias = rows.bias + (above * uppers.amax(dim=2)[rows.example]).flatten(1).sum(dim=1)
        weight = rows.weight.new_zeros(len(rows), channels, height * width)
        weight = weight.scatter_add(2, places[rows.example].flatten(2), (rows.weight - above).flatten(2))
        return [replace(rows, weight=weight.view(len(rows), channels, height, width), bias=bias)]

    def _windows(self, x: Tensor) -> Tensor:
        """Return the values under each window, ``[N, C, values of a window, H', W']``; -inf outside the map."""
        (above, before), (below, after) = self.padding, self.beyond
        padded = F.pad(x, (before, before + after, above, above + below), value=-torch.inf)
        size = [
            (length - dilation * (kernel - 1) - 1) // stride + 1
            for length, dilation, kernel, stride in zip(
                padded.shape[2:], self.dilation, self.kernel, self.stride, strict=True
            )
        ]
        parts = [
            padded[:, :, i * self.dilation[0] :, j * self.dilation[1] :][:, :, :: self.stride[0], :: self.stride[1]]
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
        ]
        return torch.stack([part[:, :, : size[0], : size[1]] for part in parts], dim=2)
