"""Batched augmentation on the device: every image of a batch is cropped and mirrored differently."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random crop after zero padding by ``crop`` pixels, horizontal ``flip``, and a ``cutout`` square of zeros.

    The usual CIFAR recipe is ``crop: 4, flip: true``. Zero switches an option off. Cutout (DeVries and Taylor 2017)
    centres its square anywhere in the image, so it may stick out. ``bank`` bounds how many draws an image has: epoch e
    shows draw ``e mod bank``, so that a teacher's answers can be kept (``training.teacher_cache``; FKD, Shen and Xing
    2022); 0 draws anew in every epoch.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    bank: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(f"crop and cutout are pixels and cannot be negative, got {self.crop} and {self.cutout}")
        if self.bank < 0:
            raise ValueError(f"bank is a number of draws (0: a new one in every epoch), got {self.bank}")

    @property
    def draws(self) -> int:
        """How many draws an image has in the whole run: 1 where nothing is drawn, 0 where there is no bound."""
        return self.bank if self.crop or self.flip or self.cutout else 1

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, of the same type, each augmented by its own draw."""
        return self.apply(images, self.draw(len(images), (images.shape[2], images.shape[3]), generator))

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return ``n`` draws for images of this height and width, int64 ``[n, 5]``, on the generator's device.

        Columns: shift down, shift right, mirrored, and the top and left of the cutout.
        """
        found = torch.zeros(n, 5, dtype=torch.int64, device=generator.device)
        highs = [0] * 5
        if self.crop or self.flip:
            highs[:3] = [2 * self.crop + 1, 2 * self.crop + 1, 2 if self.flip else 0]
        if self.cutout:
            highs[3:] = size
        for column, high in enumerate(highs):
            if high:
                found[:, column] = torch.randint(high, (n,), generator=generator, device=generator.device)
        return found

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return images like ``images`` ``[N, C, H, W]``, augmented by their draws ``[N, 5]``."""
        if self.crop or self.flip:
            images = self._moved(images, *draws[:, :3].unbind(dim=1))
        if self.cutout:
            images = self._cut(images, *(draws[:, 3:] - self.cutout // 2).unbind(dim=1))
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
