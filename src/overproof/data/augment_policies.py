"""Policies of operations: RandAugment, AutoAugment's for CIFAR-10, and the ColorShape layer of IDBH, batched.

Operations interpolate bilinearly where the official codes take the nearest pixel.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from overproof.data.augment_colours import (
    brightened,
    contrasted,
    equalised,
    posterised,
    saturated,
    sharpened,
    solarised,
    stretched,
)
from overproof.data.augment_geometry import moved, sheared, turned

Operation = Callable[[Tensor, Tensor], Tensor]
_MOVE = 150 / 331  # of the side (Cubuk et al. 2019)

OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda x, _: x,
    "shear_x": lambda x, s: sheared(x, 0.3 * s, torch.zeros_like(s)),
    "shear_y": lambda x, s: sheared(x, torch.zeros_like(s), 0.3 * s),
    "translate_x": lambda x, s: moved(x, _MOVE * s, torch.zeros_like(s)),
    "translate_y": lambda x, s: moved(x, torch.zeros_like(s), _MOVE * s),
    "rotate": lambda x, s: turned(x, 30 * s),
    "brightness": lambda x, s: brightened(x, 1 + 0.9 * s),
    "colour": lambda x, s: saturated(x, 1 + 0.9 * s),
    "contrast": lambda x, s: contrasted(x, 1 + 0.9 * s),
    "sharpness": lambda x, s: sharpened(x, 1 + 0.9 * s),
    "posterise": lambda x, s: posterised(x, 8 - (4 * s.abs()).round()),
    "solarise": lambda x, s: solarised(x, 1 - s.abs()),
    "autocontrast": lambda x, _: stretched(x),
    "equalise": lambda x, _: equalised(x),
    "invert": lambda x, _: 1 - x,
}
"""From images ``[N, C, H, W]`` in [0, 1] and strengths ``[N]`` in [-1, 1] to images; RandAugment has all but invert."""
NAMES = tuple(OPERATIONS)
RAND_OPERATIONS = len(NAMES) - 1
MAGNITUDES = 30
"""The greatest magnitude of RandAugment."""

CIFAR10: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalise", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterise", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalise", 0.6, 0), ("equalise", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalise", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarise", 0.5, 2), ("invert", 0.0, 0)),
    (("equalise", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalise", 0.2, 0), ("equalise", 0.6, 0)),
    (("colour", 0.9, 9), ("equalise", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarise", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarise", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarise", 0.8, 3)),
    (("equalise", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
"""The 25 pairs of operation, probability and strength of nine (Cubuk et al., CVPR 2019, appendix)."""
_STRENGTHS = 9

_SHAPES: tuple[Operation, ...] = (
    lambda x, u: saturated(x, 0.1 + 1.8 * u.abs()),
    lambda x, u: brightened(x, 0.5 + 1.4 * u.abs()),
    lambda x, u: contrasted(x, 0.5 + 1.4 * u.abs()),
    lambda x, u: sharpened(x, 0.1 + 1.8 * u.abs()),
    lambda x, _: stretched(x),
    lambda x, _: equalised(x),
    lambda x, u: _sheared_one_way(x, u),
    lambda x, u: turned(x, torch.where(u < 0, -1, 1) * (1 + (10 * u.abs()).floor().clamp(max=9))),
)
COLOUR_SHAPES = len(_SHAPES)
"""The operations of ColorShape's variant "color" in IDBH (Li and Spratling, ICLR 2023), each of probability 1/8."""


def changed(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` in [0, 1], each changed by its operation (a number ``[N]``) at its strength."""
    return _each(images, operation, strength, tuple(OPERATIONS.values()))


def colour_shaped(images: Tensor, operation: Tensor, draw: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` in [0, 1], each changed by one operation of IDBH's ColorShape.

    ``draw`` ``[N]`` in (-1, 1) gives the strength by its size and the direction by its sign.
    """
    return _each(images, operation, draw, _SHAPES)


def by_policy(images: Tensor, pair: Tensor, hits: Tensor, signs: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` in [0, 1] after AutoAugment's policy for CIFAR-10.

    ``pair`` ``[N]`` is the number of each image's pair, ``hits`` ``[N, 2]`` uniform draws in [0, 1) that are compared
    with the probabilities, ``signs`` ``[N, 2]`` are 1 or -1.
    """
    for place in range(2):
        names, probabilities, strengths = zip(*(two[place] for two in CIFAR10), strict=True)
        numbers = torch.tensor([NAMES.index(name) for name in names], device=images.device)[pair]
        hit = hits[:, place] < torch.tensor(probabilities, dtype=hits.dtype, device=images.device)[pair]
        strength = torch.tensor(strengths, dtype=images.dtype, device=images.device)[pair] / _STRENGTHS
        images = changed(images, torch.where(hit, numbers, 0), strength * signs[:, place].to(images.dtype))
    return images


def _sheared_one_way(images: Tensor, draw: Tensor) -> Tensor:
    """Shear rows or columns by an angle of 0.05 to 0.15; the half of its size that a draw is in says which."""
    size = draw.abs()
    across = size < 0.5
    angle = 0.05 + 0.1 * ((2 * size) % 1.0)
    slope = torch.where(draw < 0, -1, 1) * angle.tan()
    zero = torch.zeros_like(slope)
    return sheared(images, torch.where(across, slope, zero), torch.where(across, zero, slope))


def _each(images: Tensor, operation: Tensor, strength: Tensor, operations: tuple[Operation, ...]) -> Tensor:
    result = images.clone()
    for number, change in enumerate(operations):
        rows = (operation == number).nonzero().flatten()
        if len(rows):
            result[rows] = change(images[rows], strength[rows])
    return result
