"""A student: one depthwise-separable convolution and a linear layer."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from overproof.models import Architecture, Signature


@dataclass(frozen=True, kw_only=True)
class Tiny(Architecture):
    """Convolution, ReLU, depthwise convolution with stride 2, ReLU, linear layer; ``width`` channels."""

    kind: Literal["tiny"] = "tiny"
    width: int = 8

    def build(self, signature: Signature) -> nn.Module:
        """Return a new network for these images."""
        cells = ((signature.height + 1) // 2) * ((signature.width + 1) // 2)
        return nn.Sequential(
            nn.Conv2d(signature.channels, self.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, self.width, 3, stride=2, padding=1, groups=self.width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(self.width * cells, signature.classes),
        )
