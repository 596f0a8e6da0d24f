"""Batched changes of where pixels are: a random crop, resized to the image's own size, and affine maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def boxes(size: tuple[int, int], area: Tensor, ratio: Tensor, place: tuple[Tensor, Tensor]) -> Tensor:
    """Return boxes in an image of this height and width, int64 ``[N, 4]``: top, left, height, width.

    ``area`` ``[N]`` is the share of the image, ``ratio`` ``[N]`` width by height in pixels, ``place`` two uniform draws
    ``[N]`` each in [0, 1) of where the box is. What would stick out of the image is cut (torchvision draws again).
    """
    height, width = size
    pixels = area * (height * width)
    tall = (pixels / ratio).sqrt().round().long().clamp(1, height)
    wide = (pixels * ratio).sqrt().round().long().clamp(1, width)
    top = (place[0] * (height - tall + 1)).long()
    left = (place[1] * (width - wide + 1)).long()
    return torch.stack([top, left, tall, wide], dim=1)


def resized(images: Tensor, box: Tensor) -> Tensor:
    """Return the part of each image ``[N, C, H, W]`` in its box ``[N, 4]``, at the size of the image, bilinearly.

    As ``interpolate(..., align_corners=False)`` of each part by itself; nothing is made smaller, so nothing is blurred.
    """
    top, left, height, width = box.unbind(dim=1)
    rows = _interpolated(images.transpose(2, 3), top, height).transpose(2, 3)
    return _interpolated(rows, left, width)


def _interpolated(images: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Return images ``[N, C, A, B]`` of which ``length`` of the last dimension, from ``start`` on, fills all of it."""
    n, channels, other, size = images.shape
    steps = torch.arange(size, device=images.device, dtype=torch.float64) + 0.5
    place = (steps * (length[:, None] / size) - 0.5).clamp(min=0)
    low = place.long()
    share = (place - low).to(images.dtype)[:, None, None, :]
    high = torch.minimum(low + 1, length[:, None] - 1)
    first, second = (
        images.gather(3, (start[:, None] + at)[:, None, None, :].expand(n, channels, other, size)) for at in (low, high)
    )
    return first + share * (second - first)


def sheared(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` whose rows move by ``across`` and columns by ``down`` ``[N]`` per unit."""
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    return _mapped(images, [one, across, zero], [down, one, zero])


def moved(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` moved by these shares ``[N]`` of their width and height."""
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    return _mapped(images, [one, zero, -2 * across], [zero, one, -2 * down])


def turned(images: Tensor, degrees: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` turned around their centres by ``degrees`` ``[N]``."""
    angle, zero = degrees * (math.pi / 180), torch.zeros_like(degrees)
    aspect = images.shape[2] / images.shape[3]
    cosine, sine = angle.cos(), angle.sin()
    return _mapped(images, [cosine, -sine * aspect, zero], [sine / aspect, cosine, zero])


def _mapped(images: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Return what affine maps, given from the new image to the old, make of images; black comes in from outside."""
    theta = torch.stack([torch.stack(first, dim=1), torch.stack(second, dim=1)], dim=1).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
