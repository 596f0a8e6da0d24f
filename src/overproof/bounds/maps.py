"""What torch's layers on maps are as operators: convolutions, pooling, BatchNorm, padding with zeros.

Each function takes torch's own options by name. Raises ``NoBoundsError`` for those that have no bounds.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from overproof.bounds.activations import MaxPool
from overproof.bounds.operators import Contract, Conv, Linear, Operator, Pad, Reshape, Scale, Shape
from overproof.bounds.rows import Pair


class NoBoundsError(Exception):
    """A step of a network has no bounds; the text says what it is."""


def pair(value: Any) -> Pair:
    """Return a size for both directions from one for both, or one for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def conv(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Conv:
    """Return a convolution; ``weight`` is ``[O, C, h, w]``."""
    if weight.dim() != 4:
        raise NoBoundsError("a convolution of other than maps")
    if padding_mode != "zeros":
        raise NoBoundsError(f"Conv2d with {padding_mode} padding")
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise NoBoundsError("Conv2d with one-sided padding")
        padding = tuple(r // 2 for r in reach) if padding == "same" else (0, 0)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return Conv(
        weight=weight,
        bias=bias[:, None, None],
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
        groups=groups,
    )


def batch_norm(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dimensions: int
) -> Scale:
    """Return a BatchNorm in eval mode on layers of so many dimensions, the batch not counted."""
    factor = (variance + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    shift = -mean * factor
    shift = shift if bias is None else shift + bias
    shape = (-1, *(1,) * (dimensions - 1))
    return Scale(factor=factor.view(shape), shift=shift.view(shape))


def average(
    before: Shape,
    after: Shape,
    like: Tensor,
    *,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> list[Operator]:
    """Return average pooling: a convolution of each channel by itself; then other divisors where some are others."""
    kernel, margin = pair(kernel_size), pair(padding)
    step = pair(stride or kernel)
    beyond = _beyond(before, after, kernel, step, margin)
    weight = like.new_full((before[0], 1, *kernel), 1 / (kernel[0] * kernel[1]))
    bias = like.new_zeros(before[0], 1, 1)
    conv = Conv(weight=weight, bias=bias, stride=step, padding=margin, groups=before[0])
    if not any(beyond) and not divisor_override and (count_include_pad or margin == (0, 0)):
        return [conv]
    ones = like.new_ones(1, *before)
    wanted = F.avg_pool2d(ones, kernel, step, margin, ceil_mode, count_include_pad, divisor_override)
    around = (margin[1], margin[1] + beyond[1], margin[0], margin[0] + beyond[0])
    conv = replace(conv, padding=(0, 0))
    sums = conv.convolve(F.pad(ones, around), weight)
    return [Pad(margins=around), conv, Scale(factor=(wanted / sums)[0], shift=like.new_zeros(()))]


def adaptive(before: Shape, after: Shape, like: Tensor) -> list[Operator]:
    """Return average pooling to a size."""
    if not before[1] % after[1] and not before[2] % after[2]:
        return average(before, after, like, kernel_size=(before[1] // after[1], before[2] // after[2]))
    down, across = (F.adaptive_avg_pool1d(torch.eye(before[side]).to(like)[None], after[side])[0] for side in (1, 2))
    weight = torch.einsum("bd,ce->bcde", down, across)
    return [Contract(terms=("abc", "bcde", "ade"), weight=weight, bias=like.new_zeros(()))]


def _beyond(before: Shape, after: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Return how far the last windows of pooling reach beyond the padding, down and to the right."""
    down, across = (
        max(0, (after[1 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - before[1 + i] - 2 * padding[i])
        for i in (0, 1)
    )
    return down, across


def mean_of_map(before: Shape, like: Tensor, *, keepdim: bool) -> list[Operator]:
    """Return the mean over the last two dimensions of a map."""
    if keepdim:
        return average(before, (before[0], 1, 1), like, kernel_size=before[1:])
    area = before[1] * before[2]
    weight = torch.eye(before[0]).repeat_interleave(area, dim=1).to(like) / area
    return [Reshape(shape=(weight.shape[1],)), Linear(weight=weight, bias=like.new_zeros(before[0]))]


def max_pool(
    before: Shape,
    after: Shape,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
    frame: tuple[int, ...] = (),
) -> MaxPool:
    """Return max pooling of a map; ``frame`` are margins (left, right, top, bottom) of minus infinity around it.

    ``before`` counts them, though the map that is pooled is without them.
    """
    if return_indices:
        raise NoBoundsError("max pooling with return_indices")
    kernel, margin, apart = pair(kernel_size), pair(padding), pair(dilation)
    step = pair(stride or kernel)
    beyond = _beyond(before, after, kernel, step, margin, apart) if ceil_mode else (0, 0)
    if frame:
        left, right, top, bottom = frame
        if min(frame) < 0 or margin != (0, 0):
            raise NoBoundsError("max pooling with padding twice")
        margin, beyond = (top, left), (beyond[0] + bottom - top, beyond[1] + right - left)
    return MaxPool(kernel=kernel, stride=step, padding=margin, dilation=apart, beyond=beyond)


def largest_to_size(before: Shape, after: Shape, *, return_indices: bool, **given: Any) -> MaxPool:
    """Return max pooling to a size."""
    if before[1] % after[1] or before[2] % after[2] or return_indices:
        raise NoBoundsError("adaptive max pooling to a size that does not divide the map, or with its places")
    kernel = before[1] // after[1], before[2] // after[2]
    return MaxPool(kernel=kernel, stride=kernel)


def pad_map(margins: Any) -> Pad:
    """Return zeros around a map: margins are (left, right, top, bottom)."""
    return Pad(margins=(margins[0], margins[1], margins[2], margins[3]))
