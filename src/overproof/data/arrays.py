"""Arrays of a file as images and labels: what is plain is read, what could mean two things is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overproof.data.images import MOST_CLASSES, why_not_pixels
from overproof.data.notes import counted
from overproof.errors import InputError

Array = np.ndarray[Any, Any]
_PLAIN = (1, 3)  # channels
_BRIGHT = 128  # the least largest value of integers that are taken for pixels of 0 to 255


def labels_of(y: Array, name: str, where: str) -> tuple[Array, tuple[str, ...]]:
    """Return labels as int64 ``[N]`` that torch may write to, and what is to be said of them.

    Read are integers of every width, booleans and floats that hold whole numbers, ``[N]`` or ``[N, 1]``. Raises
    ``InputError`` for everything else, ``name`` being that of the array.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise InputError(f"{where}: {_why_not_labels(y, name)}")
    notes: tuple[str, ...] = ()
    if y.dtype.kind == "f":
        odd = ~np.isfinite(y) | (y != np.round(y))
        if odd.any():
            raise InputError(f"{where}: labels must be whole numbers from 0, {name} holds {y[odd][0]:g}")
        notes = (f"the labels {name} are {y.dtype} and hold whole numbers: they are read as integers",)
    elif y.dtype.kind not in "biu":
        number = (
            "; number the classes from 0 (np.unique(labels, return_inverse=True)[1])" if y.dtype.kind in "US" else ""
        )
        raise InputError(f"{where}: labels must be integers, {name} is {y.dtype}{number}")
    largest = int(y.max()) if y.size else 0
    if largest >= MOST_CLASSES:
        raise InputError(
            f"{where}: label {largest} is too large; classes are numbered from 0, at most {MOST_CLASSES:,}"
        )
    return np.array(y, dtype=np.int64), notes


def _why_not_labels(y: Array, name: str) -> str:
    if y.ndim == 2 and y.dtype.kind in "biuf" and y.size and bool(((y != 0).sum(axis=1) == 1).all()):
        return f"{name} holds one-hot rows {list(y.shape)}; save {name}.argmax(axis=1) instead"
    return f"labels must be [N] or [N, 1], {name} is {list(y.shape)}, so it is not as many labels as images"


def images_of(
    x: Array, name: str, where: str, other: Callable[[], Array | None] = lambda: None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return images as ``[N, C, H, W]`` uint8 or float32, and what is to be said of them.

    ``other`` returns the images of the other part, which are asked where the values of these leave open what is white.
    Raises ``InputError`` for what could mean two things.
    """
    x = _channels_first(x, where)
    pixels, notes = _typed(x, name, where, other)
    return torch.from_numpy(np.ascontiguousarray(pixels)), notes


def _channels_first(x: Array, where: str) -> Array:
    """Return ``[N, C, H, W]`` from an array with no channel axis, or one at the end or in second place."""
    shape = list(x.shape)
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise InputError(f"{where}: expected images [N, H, W], [N, H, W, C] or [N, C, H, W], got {shape}")
    first, last = shape[1] in _PLAIN, shape[3] in _PLAIN
    if first and last:
        raise InputError(
            f"{where}: images {shape} may be [N, C, H, W] or [N, H, W, C]; save grey ones as [N, H, W], and pad others "
            "to a side that is not 1 or 3"
        )
    if last:
        return x.transpose(0, 3, 1, 2)
    if first or shape[1] < min(shape[2:]):  # images of more bands than three: fewer than there are rows or columns
        return x
    advice = "drop the alpha channel (x[..., :3])" if shape[3] in (2, 4) else "transpose to [N, C, H, W]"
    raise InputError(f"{where}: images {shape} have 1 or 3 channels neither in second place nor at the end; {advice}")


def _typed(x: Array, name: str, where: str, other: Callable[[], Array | None]) -> tuple[Array, tuple[str, ...]]:
    kind, of_type = x.dtype.kind, x.dtype
    if kind == "f":
        return _floats(x, name, where), ()
    if kind == "b":
        return x.astype(np.uint8) * np.uint8(255), (f"{name} is bool: False is read as black and True as white",)
    if kind not in "iu":
        raise InputError(f"{where}: images must be uint8 or floats in [0, 1], {name} is {of_type}")
    low, high = (int(x.min()), int(x.max())) if x.size else (0, 255)
    if low < 0 or high > 255:
        advice = "undo the normalisation or the shift" if low < 0 else "divide them by their largest possible value"
        raise InputError(
            f"{where}: images must be uint8 or floats in [0, 1], {name} is {of_type} and spans [{low}, {high}]; "
            f"{advice}"
        )
    least = 2 if of_type == np.uint8 else _BRIGHT
    if 0 < high < least or (high == 0 and of_type != np.uint8):
        rest = other()
        high = max(high, int(rest.max()) if rest is not None and rest.size and rest.dtype == of_type else 0)
        if high < least:
            raise InputError(
                f"{where}: {name} is {of_type} and its largest value is {high}, which leaves open what is white; scale "
                "to 0..255 and save as uint8, or to [0, 1] and save as float32"
            )
    notes = () if of_type == np.uint8 else (f"{name} is {of_type} and spans 0..255: it is read as 8-bit pixels",)
    return x.astype(np.uint8, copy=False), notes


def _floats(x: Array, name: str, where: str) -> Array:
    """Return floats in [0, 1] as float32; raise ``InputError`` for others."""
    if not x.size:
        return x.astype(np.float32)
    if bad := int((~np.isfinite(x)).sum()):
        raise InputError(f"{where}: float images must lie in [0, 1], {name} holds {counted(bad, 'value')} not finite")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise InputError(f"{where}: {why_not_pixels(low, high)}")
    if 0 < high <= 1 / 255:
        raise InputError(f"{where}: the brightest pixel of {name} is {high:.3g}; it was divided by 255 twice")
    return x.astype(np.float32, copy=False)
