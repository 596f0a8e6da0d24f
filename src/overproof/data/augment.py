"""Batched augmentation on the device: every image of a batch is cropped and mirrored differently."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.data.augment_colours import brightened, contrasted, hued, saturated
from overproof.data.augment_geometry import boxes, resized
from overproof.data.augment_trivial import LEVELS, OPERATIONS, trivially_augmented
from overproof.data.images import pixels

_FINE = 1 << 24  # steps of a uniform draw, each of which float32 holds
_OLD, _ALL = 5, 16  # columns of a draw: without changes of size and colour, and with them


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random crop after zero padding by ``crop`` pixels, horizontal ``flip``, and a ``cutout`` square of zeros.

    The usual CIFAR recipe is ``crop: 4, flip: true``; for photographs ``scale: [0.35, 1], flip: true``. Zero switches
    an option off. Cutout (DeVries and Taylor 2017) centres its square anywhere in the image, so it may stick out.
    ``scale`` cuts out a part of between so large shares of the image, ``ratio`` bounds its width by height, and resizes
    it to the image's size, bilinearly (Inception's random resized crop); ``[1, 1]`` is off. ``brightness``,
    ``contrast`` and ``saturation`` draw a factor from 1 - value to 1 + value, ``hue`` turns colours by up to that share
    of the circle. ``trivial`` is TrivialAugment (see ``augment_trivial``). They come in this order: scale, crop and
    flip, colours, trivial, cutout. ``mixup`` and ``cutmix`` mix images with others of the batch (see ``mixing``): the
    values are the a of Beta(a, a), and methods that read labels as classes refuse them.

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
    def varies(self) -> bool:
        """Whether anything is drawn: two draws of an image may differ."""
        return bool(self.crop or self.flip or self.cutout or self.resizes or self.colours or self.trivial)

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
        strength and direction of TrivialAugment.
        """
        highs = [0] * (_ALL if self.resizes or self.colours or self.trivial else _OLD)
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
            highs[13:] = [len(OPERATIONS), LEVELS, 2]
        for column, high in enumerate(highs):
            if high:
                columns[:, column] = torch.randint(high, (n,), generator=generator, device=generator.device)
        return columns

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, augmented by their draws."""
        if self.resizes:
            images = _like(images, resized(pixels(images), self._boxes(images, draws[:, 5:9])))
        if self.crop or self.flip:
            images = self._moved(images, *draws[:, :3].unbind(dim=1))
        if self.colours or self.trivial:
            images = _like(images, self._coloured(pixels(images), draws[:, 9:]))
        if self.cutout:
            images = self._cut(images, *(draws[:, 3:5] - self.cutout // 2).unbind(dim=1))
        return images

    def _boxes(self, images: Tensor, draws: Tensor) -> Tensor:
        area, ratio, top, left = (draws.double() / _FINE).unbind(dim=1)
        least, most = self.scale
        narrow, wide = (math.log(one) for one in self.ratio)
        shape = (narrow + (wide - narrow) * ratio).exp()
        return boxes((images.shape[2], images.shape[3]), least + (most - least) * area, shape, (top, left))

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


def _like(images: Tensor, changed: Tensor) -> Tensor:
    """Return pixels in [0, 1] as the type of ``images`` has them: uint8 is rounded."""
    return (changed * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else changed
