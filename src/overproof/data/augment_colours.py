"""Batched changes of colour: each image ``[N, C, H, W]``, floats in [0, 1], by its own strength ``[N]``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_LEVELS = 256
# Luma and the two differences of colour of NTSC television (YIQ), as rows.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def grey(images: Tensor) -> Tensor:
    """Return the luma ``[N, 1, H, W]``: of three channels the customary weights, of others the mean."""
    if images.shape[1] != len(_LUMA):
        return images.mean(dim=1, keepdim=True)
    return (images * _shaped(images.new_tensor(_LUMA), 1)).sum(dim=1, keepdim=True)


def brightened(images: Tensor, factor: Tensor) -> Tensor:
    """Return images times ``factor``."""
    return (images * _shaped(factor)).clamp(0, 1)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Return images between (or beyond) their mean luma, at factor 0, and themselves, at 1."""
    return _blended(images, grey(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Return images between (or beyond) their luma, at factor 0, and themselves, at 1; grey ones stay as they are."""
    return images if images.shape[1] == 1 else _blended(images, grey(images), factor)


def hued(images: Tensor, share: Tensor) -> Tensor:
    """Return images whose colours are turned around the axis of greys by a share of the circle (in YIQ).

    Images of other than three channels stay as they are.
    """
    if images.shape[1] != 3:
        return images
    to = images.new_tensor(_YIQ).double()
    angle = 2 * math.pi * share.double()
    turn = torch.zeros(len(share), 3, 3, dtype=torch.float64, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrix = (to.inverse() @ turn @ to).to(images.dtype)
    return torch.einsum("nij,njhw->nihw", matrix, images).clamp(0, 1)


def sharpened(images: Tensor, factor: Tensor) -> Tensor:
    """Return images between (or beyond) a smooth form of them, at factor 0, and themselves, at 1; edges stay."""
    channels, height, width = images.shape[1:]
    if min(height, width) < 3:
        return images
    kernel = images.new_ones(3, 3)
    kernel[1, 1] = 5
    smooth = images.clone()
    weight = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, weight, groups=channels)
    return _blended(images, smooth, factor)


def posterised(images: Tensor, bits: Tensor) -> Tensor:
    """Return images of which each channel keeps so many of its 8 bits."""
    step = _shaped(2 ** (8 - bits.round().long()))
    level = (images * (_LEVELS - 1)).round().long()
    kept = (level // step * step).to(images.dtype) / (_LEVELS - 1)
    return torch.where(step == 1, images, kept)


def solarised(images: Tensor, threshold: Tensor) -> Tensor:
    """Return images in which what is brighter than the threshold is inverted."""
    return torch.where(images > _shaped(threshold), 1 - images, images)


def stretched(images: Tensor) -> Tensor:
    """Return images of which each channel spans [0, 1] (autocontrast); a channel of one value stays."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, torch.ones_like(high), high - low))


def equalised(images: Tensor) -> Tensor:
    """Return images of which each channel's histogram of 256 levels is as even as a table of levels makes it."""
    n, channels = images.shape[:2]
    level = (images * (_LEVELS - 1)).round().long().reshape(n * channels, -1)
    histogram = torch.zeros(n * channels, _LEVELS, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, level, torch.ones_like(level))
    brightest = histogram.gather(1, level.amax(dim=1, keepdim=True))
    step = (level.shape[1] - brightest) // (_LEVELS - 1)
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=_LEVELS - 1)
    result = (table.gather(1, level).to(images.dtype) / (_LEVELS - 1)).reshape(images.shape)
    return torch.where(step.reshape(n, channels, 1, 1) == 0, images, result)


def _blended(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + _shaped(factor) * (images - other)).clamp(0, 1)


def _shaped(values: Tensor, dimension: int = 0) -> Tensor:
    """Return values ``[N]`` so that they go along one dimension of images."""
    shape = [1, 1, 1, 1]
    shape[dimension] = -1
    return values.reshape(shape)
