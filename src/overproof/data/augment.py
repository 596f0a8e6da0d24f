"""Batched augmentation on the device: one gather crops and mirrors every image of a batch differently."""

from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.data.draws import drawn


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random crop after zero padding by ``crop`` pixels, horizontal ``flip``, and a ``cutout`` square of zeros.

    The usual CIFAR recipe is ``crop: 4, flip: true``. Zero switches an option off. Cutout (DeVries and Taylor 2017)
    centres its square anywhere in the image, so it may stick out.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(f"crop and cutout are pixels and cannot be negative, got {self.crop} and {self.cutout}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, of the same type, each augmented by its own draw."""
        if self.crop or self.flip:
            images = self._moved(images, generator)
        if self.cutout:
            images = self._cut(images, generator)
        return images

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n, channels, height, width = images.shape
        down, right = self._draw(2 * self.crop + 1, images, generator), self._draw(2 * self.crop + 1, images, generator)
        rows = torch.arange(height, device=images.device) + down[:, None]  # [N, H]
        columns = torch.arange(width, device=images.device).expand(n, width)
        if self.flip:
            mirrored = self._draw(2, images, generator)[:, None].bool()
            columns = torch.where(mirrored, width - 1 - columns, columns)
        columns = columns + right[:, None]  # [N, W]
        padded = torch.nn.functional.pad(images, [self.crop] * 4)
        example = torch.arange(n, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def _cut(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        top = self._draw(height, images, generator) - self.cutout // 2
        left = self._draw(width, images, generator) - self.cutout // 2
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        in_rows = (row >= top[:, None]) & (row < top[:, None] + self.cutout)  # [N, H]
        in_columns = (column >= left[:, None]) & (column < left[:, None] + self.cutout)  # [N, W]
        return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)

    @staticmethod
    def _draw(high: int, images: Tensor, generator: torch.Generator) -> Tensor:
        return drawn(
            lambda rows: torch.randint(high, (len(rows),), generator=generator, device=generator.device), images
        )
