"""VGG networks with BatchNorm for small images."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class _VGG(Backbone):
    def __init__(self, convolutions: tuple[int, ...], width: float, signature: Signature) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_planes, side = signature.channels, min(signature.height, signature.width)
        for count, channels in zip(convolutions, _CHANNELS, strict=True):
            planes = max(1, round(channels * width))
            for _ in range(count):
                layers += [nn.Conv2d(in_planes, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU()]
                in_planes = planes
            # A pool left out keeps its place, so that the parameters keep their official numbers.
            layers.append(nn.MaxPool2d(2) if side >= 2 else nn.Identity())
            side = max(1, side // 2)
        layers.append(nn.AdaptiveAvgPool2d(1))
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(in_planes, signature.classes)

    @property
    def head(self) -> nn.Linear:
        return self.classifier

    def embed(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.flatten(self.features(x))
        return embedding


@dataclass(frozen=True, kw_only=True)
class VGG(Architecture):
    """VGG-11/13/16/19 with BatchNorm and one linear layer, as in kuangliu/pytorch-cifar (Simonyan, 2014).

    The five max-pools bring 32x32 to 1x1. A smaller input leaves out those that would pool a single pixel
    (the fifth at 28x28, the last two at 8x8); a larger one is averaged at the end; the parameters, named
    ``features.0``, ``classifier``, stay the same. ``width`` multiplies every channel count. PyTorch's default
    initialisation.
    """

    kind: Literal["vgg"] = "vgg"
    depth: int = 16
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.depth not in _CONVOLUTIONS:
            raise ValueError(f"a vgg has depth 11, 13, 16 or 19, not {self.depth}")
        if self.width <= 0:
            raise ValueError(f"the width of a vgg multiplies its channels and must be positive, not {self.width}")

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate representation is 512 times ``width``."""
        return _VGG(_CONVOLUTIONS[self.depth], self.width, signature)
