"""Pre-activation ResNets for small images."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature
from overproof.models.architectures.wide import Activation, activation_layer, check_activation

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class _PreActBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int, activation: Activation, *, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.relu1 = activation_layer(activation)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = activation_layer(activation)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(x if self.raw else activated))


def _stage(in_planes: int, planes: int, count: int, stride: int, activation: Activation, *, raw: bool) -> nn.Sequential:
    first = _PreActBlock(in_planes, planes, stride, activation, raw=raw)
    return nn.Sequential(first, *(_PreActBlock(planes, planes, 1, activation, raw=raw) for _ in range(1, count)))


class _PreActResNet(Backbone):
    def __init__(
        self, blocks: tuple[int, ...], planes: int, signature: Signature, activation: Activation, *, raw: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(signature.channels, planes, 3, padding=1, bias=False)
        self.layer1 = _stage(planes, planes, blocks[0], 1, activation, raw=raw)
        self.layer2 = _stage(planes, 2 * planes, blocks[1], 2, activation, raw=raw)
        self.layer3 = _stage(2 * planes, 4 * planes, blocks[2], 2, activation, raw=raw)
        self.layer4 = _stage(4 * planes, 8 * planes, blocks[3], 2, activation, raw=raw)
        self.bn = nn.BatchNorm2d(8 * planes)
        self.relu = activation_layer(activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(8 * planes, signature.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def embed(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        embedding: Tensor = self.flatten(self.pool(self.relu(self.bn(out))))
        return embedding


@dataclass(frozen=True, kw_only=True)
class PreActResNet(Architecture):
    """Pre-activation residual networks, 64-128-256-512 (He et al., "Identity mappings", 2016).

    Parameters are named as in kuangliu/pytorch-cifar (``layer2.0.shortcut.0``, ``linear``) and RobustBench,
    which adds the BatchNorm and ReLU before the pooling (``bn``) that the paper has and kuangliu left out;
    they are always here. ``shortcut`` says what a projecting shortcut reads: the ``"activated"`` input, as in
    the paper, kuangliu and RobustBench's ``PreActBlockV2`` (Rice 2020, Addepalli 2021), or the ``"raw"`` one,
    as in RobustBench's ``PreActBlock``; the parameters are the same, the function is not. ``width``
    multiplies every channel count. ``activation: silu`` is that of the networks trained on generated images (Rebuffi
    2021, Rade 2021). PyTorch's default initialisation.
    """

    kind: Literal["preact"] = "preact"
    depth: int = 18
    width: float = 1.0
    shortcut: Literal["activated", "raw"] = "activated"
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise ValueError(f"a preact resnet has depth 18 or 34, not {self.depth}")
        if self.width <= 0:
            raise ValueError(
                f"the width of a preact resnet multiplies its channels and must be positive, not {self.width}"
            )
        if self.shortcut not in ("activated", "raw"):
            raise ValueError(
                f"the shortcut of a preact resnet reads the activated or the raw input, not {self.shortcut!r}"
            )

        check_activation("preact resnet", self.activation)

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate representation is 512 times ``width``."""
        if min(signature.height, signature.width) < 8:
            raise ValueError(
                "a preact resnet halves its input 3 times and needs at least 8x8 pixels, "
                f"not {signature.height}x{signature.width}"
            )
        planes = max(1, round(64 * self.width))
        return _PreActResNet(_BLOCKS[self.depth], planes, signature, self.activation, raw=self.shortcut == "raw")
