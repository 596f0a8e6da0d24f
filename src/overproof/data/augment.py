"""Batched augmentation on the device: every image of a batch is cropped and mirrored differently."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from overproof.data.augment_colours import brightened, contrasted, hued, saturated
from overproof.data.augment_geometry import boxes, crop_shifted, erased, resized
from overproof.data.augment_policies import (
    CIFAR10,
    COLOUR_SHAPES,
    MAGNITUDES,
    RAND_OPERATIONS,
    by_policy,
    changed,
    colour_shaped,
)
from overproof.data.augment_trivial import LEVELS, OPERATIONS, trivially_augmented
from overproof.data.images import pixels

_FINE = 1 << 24  # steps of a uniform draw, each of which float32 holds
_OLD, _ALL = 5, 16  # columns of a draw: without changes of size and colour, and with them
# Of the steps that came later, each with columns of its own: first, and how many.
_SHIFT, _SHAPE, _ERASE, _POLICY, _RAND = slice(16, 22), slice(22, 24), slice(24, 29), slice(29, 34), 34
_ERASED, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # shares of the image, and width by height (Zhong et al. 2020)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random crop after zero padding by ``crop`` pixels, horizontal ``flip``, and a ``cutout`` square of zeros.

    The usual CIFAR recipe is ``crop: 4, flip: true``; for photographs ``scale: [0.35, 1], flip: true``. Zero switches
    an option off. Cutout (DeVries and Taylor 2017) centres its square anywhere in the image, so it may stick out.
    ``scale`` cuts out a part of between so large shares of the image, ``ratio`` bounds its width by height, and resizes
    it to the image's size, bilinearly (Inception's random resized crop); ``[1, 1]`` is off. ``brightness``,
    ``contrast`` and ``saturation`` draw a factor from 1 - value to 1 + value, ``hue`` turns colours by up to that share
    of the circle. ``trivial`` is TrivialAugment (see ``augment_trivial``). ``crop_shift`` cuts up to so many lines away
    and pastes the rest elsewhere on black (CropShift), ``colour_shape`` applies one of eight operations, ``erasing`` is
    the probability of a black box (Zhong et al. 2020): with ``flip`` they are IDBH (Li and Spratling, ICLR 2023), whose
    two forms are ``preset: idbh_weak`` and ``idbh_strong``. ``auto_augment`` is AutoAugment's policy for CIFAR-10,
    ``rand_augment`` a number of operations of RandAugment at the magnitude ``rand_magnitude`` of 30 (see
    ``augment_policies``). They come in this order: scale, crop and flip, crop_shift, colours, trivial, colour_shape,
    auto_augment, rand_augment, cutout, erasing. ``mixup`` and ``cutmix`` mix images with others of the batch (see
    ``mixing``): the values are the a of Beta(a, a), and methods that read labels as classes refuse them.

    A class derived from it adds steps of its own, with a ``kind``: it draws further columns in ``draw``, uses them in
    ``apply``, and says in ``varies`` that it draws.

    ``bank`` bounds how many draws an image has: epoch e shows draw ``e mod bank``, so that a teacher's answers can be
    kept (``training.teacher_cache``; FKD, Shen and Xing 2022); 0 draws again in every epoch.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    bank: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    trivial: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_shift: int = 0
    colour_shape: bool = False
    erasing: float = 0.0
    auto_augment: bool = False
    rand_augment: int = 0
    rand_magnitude: int = 9
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "idbh_weak": {"flip": True, "crop_shift": 10, "colour_shape": True, "erasing": 0.5},
        "idbh_strong": {"flip": True, "crop_shift": 10, "colour_shape": True, "erasing": 1.0},
    }

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(f"crop and cutout are pixels and cannot be negative, got {self.crop} and {self.cutout}")
        if self.bank < 0:
            raise ValueError(f"bank is a number of draws (0: a new one in every epoch), got {self.bank}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is the least and the greatest share of the image, in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is the least and the greatest width by height, above 0, got {self.ratio}")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is from 0 to {most:g}, got {value}")
        if self.crop_shift < 0:
            raise ValueError(f"crop_shift is a number of lines and cannot be negative, got {self.crop_shift}")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing is a probability, got {self.erasing}")
        if self.rand_augment < 0 or not 0 <= self.rand_magnitude <= MAGNITUDES:
            raise ValueError(
                f"rand_augment is a number of operations and rand_magnitude from 0 to {MAGNITUDES}, got "
                f"{self.rand_augment} and {self.rand_magnitude}"
            )
        if self.mixup < 0 or self.cutmix < 0:
            raise ValueError(
                f"mixup and cutmix are the a of Beta(a, a) and cannot be negative, got {self.mixup} and {self.cutmix}"
            )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of their batch, and labels are shares of classes."""
        return bool(self.mixup or self.cutmix)

    @property
    def resizes(self) -> bool:
        """Whether a part of the image takes the place of the whole."""
        return self.scale[0] < 1

    @property
    def colours(self) -> bool:
        """Whether brightness, contrast, saturation or hue change."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def follows_a_policy(self) -> bool:
        """Whether an operation is chosen by ColorShape, AutoAugment or RandAugment."""
        return bool(self.colour_shape or self.auto_augment or self.rand_augment)

    @property
    def varies(self) -> bool:
        """Whether anything is drawn: two draws of an image may differ."""
        old = self.crop or self.flip or self.cutout or self.resizes or self.colours or self.trivial
        return bool(old or self.crop_shift or self.follows_a_policy or self.erasing)

    @property
    def draws(self) -> int:
        """How many draws an image has in the whole run: 1 where nothing is drawn, 0 where there is no bound."""
        return self.bank if self.varies else 1

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, of the same type, each augmented by its own draw."""
        return self.apply(images, self.draw(len(images), (images.shape[2], images.shape[3]), generator))

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return ``n`` draws for images of this height and width, int64 ``[n, 5]``, on the generator's device.

        Columns: shift down, shift right, mirrored, and the top and left of the cutout. ``[n, 16]`` where sizes or
        colours change: area, ratio, top and left of the part; brightness, contrast, saturation, hue; the number,
        strength and direction of TrivialAugment. ``[n, 34 + 2 rand_augment]`` where an option from ``crop_shift`` on
        is used: lines, columns among them and four places; operation and strength of ColorShape; whether, area, ratio,
        top and left of the erased box; pair, two hits and two signs of AutoAugment; then operations and signs of
        RandAugment.
        """
        later = self.crop_shift or self.follows_a_policy or self.erasing
        columns_old = _ALL if self.resizes or self.colours or self.trivial else _OLD
        highs = [0] * (_RAND + 2 * self.rand_augment if later else columns_old)
        columns = torch.zeros(n, len(highs), dtype=torch.int64, device=generator.device)
        if self.crop or self.flip:
            highs[:3] = [2 * self.crop + 1, 2 * self.crop + 1, 2 if self.flip else 0]
        if self.cutout:
            highs[3:5] = size
        if self.resizes:
            highs[5:9] = [_FINE] * 4
        if self.colours:
            highs[9:13] = [_FINE] * 4
        if self.trivial:
            highs[13:16] = [len(OPERATIONS), LEVELS, 2]
        if self.crop_shift:
            highs[_SHIFT] = [self.crop_shift + 1, *[_FINE] * 5]
        if self.colour_shape:
            highs[_SHAPE] = [COLOUR_SHAPES, 2 * _FINE]
        if self.erasing:
            highs[_ERASE] = [_FINE] * 5
        if self.auto_augment:
            highs[_POLICY] = [len(CIFAR10), _FINE, _FINE, 2, 2]
        if self.rand_augment:
            highs[_RAND:] = [RAND_OPERATIONS, 2] * self.rand_augment
        for column, high in enumerate(highs):
            if high:
                columns[:, column] = torch.randint(high, (n,), generator=generator, device=generator.device)
        return columns

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, augmented by their draws."""
        if self.resizes:
            box = _boxes(images, draws[:, 5:9], self.scale, self.ratio)
            images = _like(images, resized(pixels(images), box))
        if self.crop or self.flip:
            images = self._moved(images, *draws[:, :3].unbind(dim=1))
        if self.crop_shift:
            lines, uniform = draws[:, _SHIFT][:, 0], draws[:, _SHIFT][:, 1:].double() / _FINE
            images = crop_shifted(images, lines, (uniform[:, 0] * (lines + 1)).long(), uniform[:, 1:])
        if self.colours or self.trivial:
            images = _like(images, self._coloured(pixels(images), draws[:, 9:16]))
        if self.follows_a_policy:
            images = _like(images, self._by_policy(pixels(images), draws))
        if self.cutout:
            images = self._cut(images, *(draws[:, 3:5] - self.cutout // 2).unbind(dim=1))
        if self.erasing:
            hit = draws[:, _ERASE][:, 0].double() / _FINE < self.erasing
            images = erased(images, _boxes(images, draws[:, _ERASE][:, 1:], _ERASED, _ERASED_RATIO), hit)
        return images

    def _by_policy(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.colour_shape:
            operation, uniform = draws[:, _SHAPE].unbind(dim=1)
            images = colour_shaped(images, operation, uniform.to(images.dtype) / _FINE - 1)
        if self.auto_augment:
            chosen = draws[:, _POLICY]
            images = by_policy(images, chosen[:, 0], chosen[:, 1:3].double() / _FINE, 1 - 2 * chosen[:, 3:])
        for number in range(self.rand_augment):
            operation, direction = draws[:, _RAND + 2 * number], draws[:, _RAND + 2 * number + 1]
            strength = (1 - 2 * direction).to(images.dtype) * (self.rand_magnitude / MAGNITUDES)
            images = changed(images, operation, strength)
        return images

    def _coloured(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.colours:
            spread = (draws[:, :4].to(images.dtype) / _FINE * 2 - 1).unbind(dim=1)
            strengths = (self.brightness, self.contrast, self.saturation)
            for change, strength, at in zip((brightened, contrasted, saturated), strengths, spread, strict=False):
                images = change(images, 1 + strength * at) if strength else images
            images = hued(images, self.hue * spread[3]) if self.hue else images
        if self.trivial:
            operation, level, direction = draws[:, 4:].unbind(dim=1)
            signed = (level.to(images.dtype) / (LEVELS - 1)) * (1 - 2 * direction)
            images = trivially_augmented(images, operation, signed)
        return images

    def _moved(self, images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
        n, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, [self.crop] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view, [N, C, 2 crop + 1, 2 crop + 1, H, W]
        moved = windows[torch.arange(n, device=images.device), :, down, right]
        return torch.where(mirrored[:, None, None, None].bool(), moved.flip(3), moved) if self.flip else moved

    def _cut(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        _, _, height, width = images.shape
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        in_rows = (row >= top[:, None]) & (row < top[:, None] + self.cutout)  # [N, H]
        in_columns = (column >= left[:, None]) & (column < left[:, None] + self.cutout)  # [N, W]
        return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def _boxes(images: Tensor, draws: Tensor, share: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    area, shape, top, left = (draws.double() / _FINE).unbind(dim=1)
    (least, most), (narrow, wide) = share, (math.log(one) for one in ratio)
    shape = (narrow + (wide - narrow) * shape).exp()
    return boxes((images.shape[2], images.shape[3]), least + (most - least) * area, shape, (top, left))


def _like(images: Tensor, changed: Tensor) -> Tensor:
    """Return pixels in [0, 1] as the type of ``images`` has them: uint8 is rounded."""
    return (changed * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else changed
