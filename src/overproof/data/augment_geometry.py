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


def crop_shifted(images: Tensor, cut: Tensor, wide: Tensor, places: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` of which a part was cut out and pasted elsewhere on black, without resizing.

    CropShift (Li and Spratling, ICLR 2023): ``cut`` ``[N]`` lines are cut away, of which ``wide`` ``[N]`` are columns
    and the others rows. ``places`` ``[N, 4]`` are uniform draws in [0, 1): top and left of the part, and of its new
    place.
    """
    height, width = images.shape[2:]
    lines = torch.stack([cut - wide, wide], dim=1)  # [N, 2]: rows and columns
    start = (places[:, :2] * (lines + 1)).long()
    put = (places[:, 2:] * (lines + 1)).long()
    for dimension, (size, at) in enumerate(((height, 2), (width, 3))):
        line = torch.arange(size, device=images.device)
        first, to, gone = (values[:, dimension, None] for values in (start, put, lines))
        source = line - to + first  # [N, size]
        kept = (line >= to) & (line < to + size - gone)
        shape = [len(images), 1, 1, 1]
        shape[at] = size
        index = source.clamp(0, size - 1).view(shape).expand_as(images)
        images = images.gather(at, index) * kept.view(shape).to(images.dtype)
    return images


def erased(images: Tensor, box: Tensor, hit: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` in which the box ``[N, 4]`` (top, left, height, width) is black where ``hit``."""
    top, left, tall, wide = box.unbind(dim=1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :] & hit[:, None, None])[:, None], 0)


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
