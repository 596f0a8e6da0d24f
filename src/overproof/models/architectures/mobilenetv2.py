"""MobileNetV2 for small images, the usual small student of robust distillation."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature

# (expansion, channels, blocks, stride of the first block)
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _scale(channels: int, width: float) -> int:
    """Return ``channels * width`` as a multiple of 8, halves upwards, at least 8."""
    return max(8, 8 * int(channels * width / 8 + 0.5))


class _InvertedResidual(nn.Module):
    def __init__(self, in_planes: int, planes: int, expansion: int, stride: int) -> None:
        super().__init__()
        expanded = expansion * in_planes
        self.conv1 = nn.Conv2d(in_planes, expanded, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(expanded)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(expanded, expanded, 3, stride=stride, padding=1, groups=expanded, bias=False)
        self.bn2 = nn.BatchNorm2d(expanded)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(expanded, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.shortcut = self._skip(in_planes, planes) if stride == 1 else None

    @staticmethod
    def _skip(in_planes: int, planes: int) -> nn.Module:
        if in_planes == planes:
            return nn.Identity()
        return nn.Sequential(nn.Conv2d(in_planes, planes, 1, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.relu1(self.bn1(self.conv1(x)))
        filtered = self.relu2(self.bn2(self.conv2(expanded)))
        out: Tensor = self.bn3(self.conv3(filtered))
        return out if self.shortcut is None else out + self.shortcut(x)


class _MobileNetV2(Backbone):
    def __init__(self, width: float, signature: Signature) -> None:
        super().__init__()
        in_planes = _scale(32, width)
        # As the paper does, a narrow network keeps its last convolution; only a wide one widens it.
        features = _scale(1280, max(1.0, width))
        self.conv1 = nn.Conv2d(signature.channels, in_planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.relu1 = nn.ReLU()
        layers = []
        for expansion, channels, blocks, stride in _STAGES:
            planes = _scale(channels, width)
            for i in range(blocks):
                layers.append(_InvertedResidual(in_planes, planes, expansion, stride if i == 0 else 1))
                in_planes = planes
        self.layers = nn.Sequential(*layers)
        self.conv2 = nn.Conv2d(in_planes, features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(features, signature.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def embed(self, x: Tensor) -> Tensor:
        out = self.layers(self.relu1(self.bn1(self.conv1(x))))
        embedding: Tensor = self.flatten(self.pool(self.relu2(self.bn2(self.conv2(out)))))
        return embedding


@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Architecture):
    """MobileNetV2 (Sandler et al., 2018) in the CIFAR form of kuangliu/pytorch-cifar.

    The student of ARD, RSLAD and MTARD. Against the paper: the stem and the second stage have stride 1, ReLU
    stands for ReLU6, and every block of stride 1 is residual, through a 1x1 convolution and BatchNorm where
    its widths differ. ``width`` multiplies every channel count, rounded to multiples of 8. PyTorch's default
    initialisation.
    """

    kind: Literal["mobilenetv2"] = "mobilenetv2"
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(
                f"the width of a mobilenetv2 multiplies its channels and must be positive, not {self.width}"
            )

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate representation is 1280, times ``width`` where above 1."""
        if min(signature.height, signature.width) < 8:
            raise ValueError(
                "mobilenetv2 halves its input 3 times and needs at least 8x8 pixels, "
                f"not {signature.height}x{signature.width}"
            )
        return _MobileNetV2(self.width, signature)
