"""An augmentation: what the standard one does, and noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from overproof.data import Augment


@dataclass(frozen=True, kw_only=True)
class Noise(Augment):
    """Crop, flip and the like, then every image under uniform noise of its own, up to ``strength`` gray levels."""

    kind: Literal["noise"] = "noise"
    strength: int = 20

    @property
    def varies(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.strength) or super().varies

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return the draws of the standard augmentation, and in the last column the seed of the noise."""
        seeds = torch.randint(1 << 31, (n, 1), generator=generator, device=generator.device)
        return torch.cat([super().draw(n, size, generator), seeds], dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return images like ``images``: the noise of each depends on its own draws alone."""
        moved = super().apply(images, draws[:, :-1])
        level = 1.0 if moved.is_floating_point() else 255.0
        pixels = torch.arange(moved[0].numel(), device=moved.device)
        # A hash of seed and pixel, in place of a generator for every image of the batch.
        mixed = (draws[:, -1:] * 1103515245 + pixels * 2654435761) % 2147483647
        noise = ((mixed * 48271 % 2147483647) / 2147483647 * 2 - 1).view(moved.shape) * self.strength / 255
        return ((moved / level + noise).clamp(0, 1) * level).to(moved.dtype)
