"""What a network is made of, as bound propagation sees it: affine operators, forwards on boxes and backwards on rows.

Shapes are without the batch: ``[C, H, W]`` for a map, ``[F]`` for features, ``[T, F]`` for tokens and so on.
``forward`` takes the bounds of the operator's inputs, ``[N, *shape]`` each, and is exact for every output alone.
``propagate_backward`` takes rows over the output and returns rows over each input, whose sum is the same function.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds, Pair, Window

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator(ABC):
    """One step of a network."""

    @abstractmethod
    def forward(self, *inputs: Bounds) -> Bounds:
        """Return bounds of the output from bounds of the inputs (interval arithmetic, Gowal et al. 2018)."""

    def to(self, dtype: torch.dtype) -> Self:
        """Return the operator with its constants in another precision."""
        tensors = {part.name: getattr(self, part.name) for part in fields(self)}
        kept = {k: v.to(dtype) for k, v in tensors.items() if isinstance(v, Tensor) and v.is_floating_point()}
        return replace(self, **kept)


class Affine(Operator):
    """An affine operator: rows pass through it without loss."""

    @abstractmethod
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        """Return rows over each input; the shapes are those of the inputs and of the output."""

    def neurons(self, index: Tensor, inputs: Sequence[Shape], output: Shape, sign: Tensor) -> list[LinearBounds]:
        """Return rows over the inputs for single outputs: ``sign[m]`` times output ``index[m, 1:]``.

        ``index`` is int64 ``[M, 1 + dimensions of output]``, the example first; ``sign`` is ``[M]``.
        """
        return self.propagate_backward(one_hot(index, output, sign), inputs, output)


def one_hot(index: Tensor, shape: Shape, sign: Tensor) -> LinearBounds:
    """Return rows that are ``sign[m]`` at ``index[m, 1:]`` of a layer and zero elsewhere."""
    bias = torch.zeros_like(sign)
    if len(shape) not in (1, 3):
        weight = sign.new_zeros(len(index), *shape)
        weight[(torch.arange(len(index), device=index.device), *index[:, 1:].T)] = sign
        return LinearBounds(weight, bias, index[:, 0])
    weight = sign.new_zeros(len(index), shape[0]).scatter_(1, index[:, 1:2], sign[:, None])
    if len(shape) == 1:
        return LinearBounds(weight, bias, index[:, 0])
    return LinearBounds(weight[:, :, None, None], bias, index[:, 0], Window(index[:, 2:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Affine):
    """A convolution with zero padding; ``bias`` is ``[O, 1, 1]``, or ``[O, H, W]`` where a shift was folded in."""

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution of ``[N, C, H, W]`` with these weights, without the bias."""
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        (x,) = inputs
        centre = self.convolve(x.centre, self.weight) + self.bias
        radius = self.convolve(x.radius, self.weight.abs())
        return Bounds(centre - radius, centre + radius)

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        (shape,) = inputs
        rows = self._with_bias(rows, output)
        padding, beyond = self.padding, (0, 0)
        if rows.window is None:
            beyond = (self._beyond(0, shape, output), self._beyond(1, shape, output))
        else:
            padding = (0, 0)
        weight = F.conv_transpose2d(
            rows.weight,
            self.weight,
            stride=self.stride,
            padding=padding,
            output_padding=beyond,
            groups=self.groups,
            dilation=self.dilation,
        )
        return [self._placed(replace(rows, weight=weight), shape)]

    @override
    def neurons(self, index: Tensor, inputs: Sequence[Shape], output: Shape, sign: Tensor) -> list[LinearBounds]:
        if self.groups > 1:
            return super().neurons(index, inputs, output, sign)
        channel = index[:, 1]
        rows = LinearBounds(sign[:, None, None, None], torch.zeros_like(sign), index[:, 0], Window(index[:, 2:]))
        bias = self.bias.expand(output)[channel, index[:, 2], index[:, 3]] * sign
        weight = self.weight[channel] * sign[:, None, None, None]
        if self.dilation != (1, 1):
            spread = weight.new_zeros(
                *weight.shape[:2], *(d * (k - 1) + 1 for d, k in zip(self.dilation, weight.shape[2:], strict=True))
            )
            spread[:, :, :: self.dilation[0], :: self.dilation[1]] = weight
            weight = spread
        return [self._placed(replace(rows, weight=weight, bias=bias), inputs[0])]

    def _with_bias(self, rows: LinearBounds, output: Shape) -> LinearBounds:
        if self.bias.shape[1:] == (1, 1):
            return rows.plus(rows.weight.sum(dim=(2, 3)) @ self.bias[:, 0, 0])
        return rows.plus(rows.dot(self.bias.expand(output)[None]))

    def _placed(self, rows: LinearBounds, shape: Shape) -> LinearBounds:
        """Return rows whose window was on the output with the window's place on the input, and nothing outside."""
        if rows.window is None:
            return rows
        stride = rows.window.stride[0] * self.stride[0], rows.window.stride[1] * self.stride[1]
        pad = tuple(p * s + q for p, s, q in zip(rows.window.pad, self.stride, self.padding, strict=True))
        placed = replace(rows, window=Window(rows.window.place, stride, (pad[0], pad[1])))
        if prod(rows.weight.shape[-2:]) >= prod(shape[1:]):
            return placed.dense(shape)
        if pad == (0, 0):
            return placed
        inside = replace(placed, weight=placed.weight[:, :1]).values(placed.weight.new_ones(1, 1, *shape[1:]))
        return placed.with_weight(placed.weight * inside)

    def _beyond(self, side: int, inputs: Shape, output: Shape) -> int:
        """Return how many last lines (side 0) or columns (side 1) of the input no kernel reaches."""
        reach = (output[1 + side] - 1) * self.stride[side] - 2 * self.padding[side]
        return inputs[1 + side] - (reach + self.dilation[side] * (self.weight.shape[2 + side] - 1) + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Affine):
    """A linear layer on features; ``weight`` ``[O, F]``, ``bias`` ``[O]``."""

    weight: Tensor
    bias: Tensor

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        (x,) = inputs
        centre = F.linear(x.centre, self.weight, self.bias)
        radius = F.linear(x.radius, self.weight.abs())
        return Bounds(centre - radius, centre + radius)

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        return [rows.plus(rows.weight @ self.bias).with_weight(rows.weight @ self.weight)]

    @override
    def neurons(self, index: Tensor, inputs: Sequence[Shape], output: Shape, sign: Tensor) -> list[LinearBounds]:
        neuron = index[:, 1]
        return [LinearBounds(self.weight[neuron] * sign[:, None], self.bias[neuron] * sign, index[:, 0])]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Affine):
    """``factor * x + shift``, both broadcast to the layer's shape: BatchNorm in eval mode, a normalisation."""

    factor: Tensor
    shift: Tensor

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        (x,) = inputs
        centre, radius = self.factor * x.centre + self.shift, self.factor.abs() * x.radius
        return Bounds(centre - radius, centre + radius)

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        rows = rows.plus(rows.dot(self.shift.expand(output)[None]))
        factor = self.factor.expand(output)[None]
        return [rows.with_weight(rows.weight * rows.values(factor))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Affine):
    """The same values in another shape, the batch kept."""

    shape: Shape

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(*(side.reshape(len(side), *self.shape) for side in inputs[0]))

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        rows = rows.dense(output)
        return [rows.with_weight(rows.weight.reshape(len(rows), *inputs[0]))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Affine):
    """The sum of two or more layers of one shape."""

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(sum(x.lower for x in inputs), sum(x.upper for x in inputs))  # type: ignore[arg-type]

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        return [rows, *(replace(rows, bias=torch.zeros_like(rows.bias)) for _ in inputs[1:])]


@dataclass(frozen=True, kw_only=True, eq=False)
class Concatenate(Affine):
    """Layers one after another along their first dimension (channels, or features)."""

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(torch.cat([x.lower for x in inputs], dim=1), torch.cat([x.upper for x in inputs], dim=1))

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        parts = torch.split(rows.weight, [shape[0] for shape in inputs], dim=1)
        none = torch.zeros_like(rows.bias)
        return [replace(rows, weight=part, bias=none if i else rows.bias) for i, part in enumerate(parts)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Affine):
    """Zeros around a map: ``margins`` are (left, right, top, bottom)."""

    margins: tuple[int, int, int, int]

    def around(self, shape: Shape) -> Shape:
        """Return the shape of the output."""
        left, right, top, bottom = self.margins
        return (*shape[:-2], shape[-2] + top + bottom, shape[-1] + left + right)

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(*(F.pad(side, self.margins) for side in inputs[0]))

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        rows = rows.dense(output)
        left, _, top, _ = self.margins
        _, height, width = inputs[0]
        return [rows.with_weight(rows.weight[:, :, top : top + height, left : left + width])]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather(Affine):
    """The input's values at other places: ``index``, int64 in the output's shape, counts them flattened; -1 is zero."""

    index: Tensor

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        return Bounds(*(F.pad(side.flatten(1), (0, 1))[:, self.index] for side in inputs[0]))

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        (shape,) = inputs
        rows, size = rows.dense(output), prod(shape)
        index = torch.where(self.index < 0, size, self.index).flatten()
        weight = rows.weight.new_zeros(len(rows), size + 1).index_add(1, index, rows.weight.flatten(1))
        return [rows.with_weight(weight[:, :size].reshape(len(rows), *shape))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contract(Affine):
    """Sums of products with a constant, as ``torch.einsum`` writes them: of the input, the weight and the output.

    A linear layer on tokens is ``("tf", "of", "to")``. Each letter of the input is in the weight or the output.
    ``bias`` broadcasts to the output.
    """

    terms: tuple[str, str, str]
    weight: Tensor
    bias: Tensor

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        (x,) = inputs
        first, weight, out = self.terms
        centre = torch.einsum(f"Z{first},{weight}->Z{out}", x.centre, self.weight) + self.bias
        radius = torch.einsum(f"Z{first},{weight}->Z{out}", x.radius, self.weight.abs())
        return Bounds(centre - radius, centre + radius)

    @override
    def propagate_backward(self, rows: LinearBounds, inputs: Sequence[Shape], output: Shape) -> list[LinearBounds]:
        rows = rows.dense(output)
        first, weight, out = self.terms
        rows = rows.plus(rows.dot(self.bias.expand(output)[None]))
        return [rows.with_weight(torch.einsum(f"Z{out},{weight}->Z{first}", rows.weight, self.weight))]
