"""A data set: grey images of bars, lying, standing or none."""

from dataclasses import dataclass
from typing import Literal

import torch

from overproof.data import ImageSet, Source


@dataclass(frozen=True, kw_only=True)
class Bars(Source):
    """``images`` images of ``size`` x ``size`` pixels with a bar under ``noise``; drawn, and the same every time."""

    kind: Literal["bars"] = "bars"
    images: int = 600
    size: int = 8
    noise: float = 0.25

    def open(self, split: Literal["train", "test"]) -> ImageSet:
        """Return one split: uint8 ``[N, 1, size, size]`` and its labels ``[N]``."""
        draws = torch.Generator().manual_seed(0 if split == "train" else 1)
        labels = torch.arange(self.images) % 3
        place = torch.randint(self.size, (self.images,), generator=draws)
        line = torch.arange(self.size) == place[:, None]  # [N, size]
        x = torch.zeros(self.images, self.size, self.size)
        x[labels == 0] = line[labels == 0, :, None].float()
        x[labels == 1] = line[labels == 1, None, :].float()
        x += self.noise * torch.rand(x.shape, generator=draws)
        return ImageSet("bars", (255 * x.clamp(0, 1)).byte()[:, None], labels, ("lying", "standing", "none"))
