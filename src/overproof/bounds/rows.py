"""Linear functions of a layer's values, many at once, each stored only where it is not zero.

A bound is propagated backwards as *rows*: ``weight . value + bias``, one row per quantity to be bounded. A neuron of a
convolutional layer depends on a small window of the layers below it, so a row keeps that window and where it lies, not
the whole feature map: the cost of bounding a convolution's output by its input is that of a convolution.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from overproof.bounds.region import Region

Pair = tuple[int, int]
_WINDOWS = 1.0  # windows of a map that may be made for each row


@dataclass(frozen=True)
class Window:
    """Where each row's window lies on the map: row m starts at ``place[m] * stride - pad``, (vertical, horizontal).

    ``place`` is int64 ``[M, 2]``, the neuron's position on the map that the propagation started from. Parts of a window
    may lie outside the map; weights there are zero.
    """

    place: Tensor
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)

    def top(self) -> Tensor:
        """Return the first line of each window, ``[M]``; negative where it begins above the map."""
        return self.place[:, 0] * self.stride[0] - self.pad[0]

    def left(self) -> Tensor:
        """Return the first column of each window, ``[M]``."""
        return self.place[:, 1] * self.stride[1] - self.pad[1]


@dataclass(frozen=True)
class LinearBounds:
    """M linear functions ``weight . value + bias`` of one layer's values.

    ``weight`` is ``[M, F]`` for a layer of features, else ``[M, C, h, w]``: the whole map ``[C, H, W]`` where
    ``window`` is None, else a window of it. ``bias`` and ``example`` are ``[M]``: which of the N inputs a row is about.
    """

    weight: Tensor
    bias: Tensor
    example: Tensor
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.bias)

    def at(self, index: Tensor) -> "LinearBounds":
        """Return the rows at ``index``."""
        window = None if self.window is None else replace(self.window, place=self.window.place[index])
        return LinearBounds(self.weight[index], self.bias[index], self.example[index], window)

    def with_weight(self, weight: Tensor) -> Self:
        """Return the rows with other weights of the same places."""
        return replace(self, weight=weight)

    def plus(self, constant: Tensor) -> Self:
        """Return the rows with ``constant`` ``[M]`` added to their bias."""
        return replace(self, bias=self.bias + constant)

    def values(self, layer: Tensor) -> Tensor:
        """Return for each row the values of a layer that it multiplies, shaped as ``weight``.

        ``layer`` is ``[N, *shape]`` or, where all examples share it, ``[1, *shape]``. Zero outside the map.
        """
        example = self.example if len(layer) > 1 else torch.zeros_like(self.example)
        if self.window is None:
            return layer[example] if len(layer) > 1 else layer.expand_as(self.weight)
        height, width = self.weight.shape[-2:]
        above, before = self.window.top(), self.window.left()
        margin = _overhang(above, height, layer.shape[-2]), _overhang(before, width, layer.shape[-1])
        padded = F.pad(layer, (margin[1], margin[1], margin[0], margin[0])) if any(margin) else layer
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view, [N, C, H', W', h, w]
        windows = windows.transpose(1, 2).transpose(2, 3)
        down, across = above + margin[0], before + margin[1]
        if prod(windows.shape[:3]) > _WINDOWS * len(example):
            return windows[example, down, across]
        # Many rows share a window: all are made once, and then taken in one piece each.
        place = (example * windows.shape[1] + down) * windows.shape[2] + across
        return windows.flatten(0, 2).index_select(0, place)

    def dense(self, shape: tuple[int, ...]) -> Self:
        """Return the same rows with weights on the whole map ``shape`` = (C, H, W)."""
        if self.window is None:
            return self
        height, width = self.weight.shape[-2:]
        above, before = self.window.top(), self.window.left()
        margin = _overhang(above, height, shape[1]), _overhang(before, width, shape[2])
        canvas = self.weight.new_zeros(len(self), shape[0], shape[1] + 2 * margin[0], shape[2] + 2 * margin[1])
        down = torch.arange(height, device=above.device)
        across = torch.arange(width, device=above.device)
        row = torch.arange(len(self), device=above.device)[:, None, None]
        lines, columns = (
            (above[:, None] + margin[0] + down)[:, :, None],
            (before[:, None] + margin[1] + across)[:, None],
        )
        # Indices apart from each other go first: [M, h, w, C].
        canvas = canvas.permute(0, 2, 3, 1).index_put((row, lines, columns), self.weight.permute(0, 2, 3, 1))
        canvas = canvas.permute(0, 3, 1, 2)
        canvas = canvas[:, :, margin[0] : margin[0] + shape[1], margin[1] : margin[1] + shape[2]]
        return replace(self, weight=canvas, window=None)

    def add(self, other: "LinearBounds", shape: tuple[int, ...]) -> "LinearBounds":
        """Return the sums of two sets of the same rows on one layer of this shape."""
        bias = self.bias + other.bias
        if self.window is not None and other.window is not None and self.window.stride == other.window.stride:
            first, second, window = _align(self, other)
            return replace(self, weight=first + second, bias=bias, window=window)
        return replace(self.dense(shape), weight=self.dense(shape).weight + other.dense(shape).weight, bias=bias)

    def dot(self, layer: Tensor) -> Tensor:
        """Return ``weight . layer`` per row, ``[M]``, without the bias."""
        if self.window is None and len(layer) == 1:
            return self.weight.flatten(1) @ layer.flatten()
        return (self.weight * self.values(layer)).flatten(1).sum(dim=1)

    def minimum(self, region: Region) -> Tensor:
        """Return the least value of each row over its example's region, ``[M]``.

        Exact over a box. Over the part of an l2 ball within the box: the better of the ball's and the box's exact
        minimum, both of which hold.
        """
        least = self.dot(region.box.centre) - self.with_weight(self.weight.abs()).dot(region.box.radius)
        if region.centre is not None:
            ball = self.dot(region.centre) - region.eps * self.weight.flatten(1).norm(dim=1)
            least = torch.maximum(least, ball)
        return least + self.bias


def _overhang(start: Tensor, size: int, length: int) -> int:
    """Return by how much a window sticks out of a map of this length at either end, at most."""
    if not len(start):
        return size
    return max(0, -int(start.min()), int(start.max()) + size - length)


def _align(first: LinearBounds, second: LinearBounds) -> tuple[Tensor, Tensor, Window]:
    """Return both weights on the smallest window that holds both."""
    assert first.window is not None and second.window is not None
    begin = [max(a, b) for a, b in zip(first.window.pad, second.window.pad, strict=True)]
    end = [max(_end(first, side), _end(second, side)) for side in (0, 1)]

    def widened(rows: LinearBounds) -> Tensor:
        assert rows.window is not None
        before = [begin[side] - rows.window.pad[side] for side in (0, 1)]
        after = [end[side] - _end(rows, side) for side in (0, 1)]
        return F.pad(rows.weight, (before[1], after[1], before[0], after[0]))

    window = replace(first.window, pad=(begin[0], begin[1]))
    return widened(first), widened(second), window


def _end(rows: LinearBounds, side: int) -> int:
    """Return how far a window reaches from its neuron's place, down (side 0) or right (side 1)."""
    assert rows.window is not None
    return rows.weight.shape[2 + side] - rows.window.pad[side]
