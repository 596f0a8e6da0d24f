"""Steps on maps that are more than one operator: other sizes, transposed convolutions, maps of one dimension."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from overproof.bounds import maps
from overproof.bounds.activations import MaxPool, ReLU
from overproof.bounds.composed import Draft
from overproof.bounds.maps import NoBoundsError, pair
from overproof.bounds.operators import Add, Contract, Conv, Operator, Shape


def add_resize(draft: Draft, x: int, like: Tensor, **given: Any) -> int:
    """Add a map of another size, made of the old one line by line, then column by column.

    ``given`` are the options of ``F.interpolate``; what it does to a unit line says its weights. Bilinear weights are
    not negative, so intervals lose nothing between the two; those of bicubic ones do.
    """
    if given.get("mode", "nearest") not in ("bilinear", "bicubic", "area"):
        raise NoBoundsError(f"interpolation in mode {given.get('mode', 'nearest')}")
    _, height, width = draft.shape(x)
    lines = torch.eye(height, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, width)
    columns = torch.eye(width, dtype=torch.float64)[:, None, None, :].expand(-1, 1, height, -1)
    down, across = F.interpolate(lines, **given)[:, 0, :, 0], F.interpolate(columns, **given)[:, 0, 0, :]
    none = like.new_zeros(())
    for weight, terms in ((down, ("abc", "bd", "adc")), (across, ("abc", "cd", "abd"))):
        channels, height, width = draft.shape(x)
        size = (channels, weight.shape[1], width) if terms[1] == "bd" else (channels, height, weight.shape[1])
        x = draft.put(Contract(terms=terms, weight=weight.to(like), bias=none), [x], size)
    return x


def add_transposed_conv(
    draft: Draft,
    x: int,
    after: Shape,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> int:
    """Add a transposed convolution: an ordinary one of a map with zeros between and around its values."""
    if weight.dim() != 4 or padding_mode != "zeros":
        raise NoBoundsError("a transposed convolution of other than maps with zeros around them")
    shape = draft.shape(x)
    step, margin, beyond, apart = pair(stride), pair(padding), pair(output_padding), pair(dilation)
    reach = [apart[i] * (weight.shape[2 + i] - 1) - margin[i] for i in (0, 1)]
    index = torch.full((shape[0], *((shape[1 + i] - 1) * step[i] + 1 for i in (0, 1))), -1)
    index[:, :: step[0], :: step[1]] = torch.arange(torch.Size(shape).numel()).view(shape)
    around = (reach[1], reach[1] + beyond[1], reach[0], reach[0] + beyond[0])
    x = draft.gathered(x, F.pad(index, around, value=-1).to(weight.device))
    # [C, O / groups, h, w] to [O, C / groups, h, w]
    turned = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
    shift = weight.new_zeros(len(turned)) if bias is None else bias
    return draft.put(Conv(weight=turned, bias=shift[:, None, None], dilation=apart, groups=groups), [x], after)


def add_fold(draft: Draft, x: int, after: Shape, like: Tensor, **given: Any) -> int:
    """Add a map that is the sum of overlapping patches (``F.fold``): a transposed convolution of ones."""
    kernel, apart, margin, step = (pair(given[name]) for name in ("kernel_size", "dilation", "padding", "stride"))
    count = [(after[1 + i] + 2 * margin[i] - apart[i] * (kernel[i] - 1) - 1) // step[i] + 1 for i in (0, 1)]
    beyond = [after[1 + i] - (count[i] - 1) * step[i] + 2 * margin[i] - apart[i] * (kernel[i] - 1) - 1 for i in (0, 1)]
    size = kernel[0] * kernel[1]
    weight = torch.eye(size).to(like).view(size, 1, *kernel).repeat(after[0], 1, 1, 1)
    return add_transposed_conv(
        draft,
        draft.reshaped(x, (after[0] * size, *count)),
        after,
        weight=weight,
        stride=step,
        padding=margin,
        output_padding=beyond,
        groups=after[0],
        dilation=apart,
    )


def largest_over(draft: Draft, x: int, gone: Collection[int], like: Tensor) -> int:
    """Add the largest values over the dimensions ``gone``, kept with the size 1."""
    shape = draft.shape(x)
    kept = tuple(1 if at in gone else size for at, size in enumerate(shape))
    count = torch.Size(shape[at] for at in gone).numel()
    order = [at for at in range(len(shape)) if at not in gone] + sorted(gone)
    index = torch.arange(torch.Size(shape).numel(), device=like.device).view(shape).permute(order).reshape(1, -1, count)
    x = draft.gathered(x, index)
    x = draft.put(MaxPool(kernel=(1, count), stride=(1, count)), [x], (1, index.shape[1], 1))
    return draft.reshaped(x, kept)


def conv1d(*, weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, **given: Any) -> Conv:
    """Return a convolution of lines as one of maps of one line."""
    if weight.dim() != 3:
        raise NoBoundsError("a convolution of other than lines")
    margin = padding if isinstance(padding, str) else (0, _one(padding))
    return maps.conv(
        weight[:, :, None], stride=(1, _one(stride)), padding=margin, dilation=(1, _one(dilation)), **given
    )


def average1d(before: Shape, after: Shape, like: Tensor, **given: Any) -> Sequence[Operator]:
    """Return average pooling of lines as that of maps of one line."""
    kernel = _one(given.pop("kernel_size"))
    step = kernel if given["stride"] is None else _one(given["stride"])
    given |= {"stride": (1, step), "padding": (0, _one(given["padding"]))}
    return maps.average(before, after, like, kernel_size=(1, kernel), **given)


def for_parts(name: str, given: dict[str, Any], parts: int) -> dict[str, Any]:
    """Return the options of a layer on maps for so many maps whose channels lie one after another."""
    if name == "conv_transpose2d":
        raise NoBoundsError("a transposed convolution of parts of an image")
    if not name.startswith("conv"):
        return given
    repeated = {"weight": given["weight"].repeat(parts, *(1,) * (given["weight"].dim() - 1))}
    if given["bias"] is not None:
        repeated["bias"] = given["bias"].repeat(parts)
    return given | repeated | {"groups": given["groups"] * parts}


def _one(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


def leaky(draft: Draft, x: int, slope: Tensor, like: Tensor) -> int:
    """Add ``relu(x) - slope * relu(-x)``, whatever the slope is; it broadcasts to the layer."""
    shape, none = draft.shape(x), like.new_zeros(())
    positive = draft.put(ReLU(), [x], shape)
    negative = draft.put(ReLU(), [draft.scaled(x, none - 1, none)], shape)
    return draft.put(Add(), [positive, draft.scaled(negative, -slope, none)], shape)
