"""TrivialAugment: one operation of fourteen, at a random strength, for each image of a batch."""

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

LEVELS = 31
"""Strengths, evenly spaced from none to the greatest."""
_MOST = 0.99
_MOVE = 32 / 224  # of the side; the paper's 32 pixels are more than a small image has

OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda x, _: x,
    "shear_x": lambda x, s: sheared(x, _MOST * s, torch.zeros_like(s)),
    "shear_y": lambda x, s: sheared(x, torch.zeros_like(s), _MOST * s),
    "translate_x": lambda x, s: moved(x, _MOVE * s, torch.zeros_like(s)),
    "translate_y": lambda x, s: moved(x, torch.zeros_like(s), _MOVE * s),
    "rotate": lambda x, s: turned(x, 135 * s),
    "brightness": lambda x, s: brightened(x, 1 + _MOST * s),
    "colour": lambda x, s: saturated(x, 1 + _MOST * s),
    "contrast": lambda x, s: contrasted(x, 1 + _MOST * s),
    "sharpness": lambda x, s: sharpened(x, 1 + _MOST * s),
    "posterise": lambda x, s: posterised(x, 8 - 6 * s.abs()),
    "solarise": lambda x, s: solarised(x, 1 - s.abs()),
    "autocontrast": lambda x, _: stretched(x),
    "equalise": lambda x, _: equalised(x),
}
"""From images ``[N, C, H, W]`` in [0, 1] and strengths ``[N]`` in [-1, 1] to images; ``-s`` is the other direction."""


def trivially_augmented(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` in [0, 1], each changed by its operation (a number ``[N]``) at its strength.

    The wide search space of TrivialAugment (Müller and Hutter, ICCV 2021). Where the official code differs: it takes
    the nearest pixel where this interpolates, moves by up to 32 pixels where this moves by up to 32/224 of the side,
    and inverts what is as bright as the threshold where this inverts what is brighter.
    """
    result = images.clone()
    for number, change in enumerate(OPERATIONS.values()):
        rows = (operation == number).nonzero().flatten()
        if len(rows):
            result[rows] = change(images[rows], strength[rows])
    return result
