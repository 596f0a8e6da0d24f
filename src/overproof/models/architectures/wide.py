"""Wide ResNets with the parameter names of TRADES and RobustBench."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature

Activation = Literal["relu", "silu"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def activation_layer(activation: Activation) -> nn.Module:
    """Return a new layer for this activation; the literature on wide networks calls SiLU "Swish"."""
    return _ACTIVATIONS[activation]()


def check_wide(name: str, depth: int, width: int, activation: Activation) -> None:
    """Raise ``ValueError`` unless depth is 6n + 4, width a positive multiplier and the activation known."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"the depth of a {name} is 6n + 4 (10, 16, 22, 28, 34, ...), not {depth}")
    if width < 1:
        raise ValueError(f"the width of a {name} multiplies its channels and must be at least 1, not {width}")
    check_activation(name, activation)


def check_activation(name: str, activation: str) -> None:
    """Raise ``ValueError`` for an activation that is not known."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"the activation of a {name} is relu or silu, not {activation!r}")


class _Block(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.relu1 = activation_layer(activation)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = activation_layer(activation)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.convShortcut = None if in_planes == planes else nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class _Group(nn.Module):
    def __init__(self, count: int, in_planes: int, planes: int, stride: int, activation: Activation) -> None:
        super().__init__()
        first = _Block(in_planes, planes, stride, activation)
        self.layer = nn.Sequential(first, *(_Block(planes, planes, 1, activation) for _ in range(1, count)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class _WideResNet(Backbone):
    def __init__(self, depth: int, width: int, activation: Activation, signature: Signature) -> None:
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(signature.channels, 16, 3, padding=1, bias=False)
        self.block1 = _Group(count, 16, 16 * width, 1, activation)
        self.block2 = _Group(count, 16 * width, 32 * width, 2, activation)
        self.block3 = _Group(count, 32 * width, 64 * width, 2, activation)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = activation_layer(activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64 * width, signature.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def embed(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        embedding: Tensor = self.flatten(self.pool(self.relu(self.bn1(out))))
        return embedding


@dataclass(frozen=True, kw_only=True)
class WideResNet(Architecture):
    """Wide residual networks, "WRN-depth-width" (Zagoruyko and Komodakis, 2016).

    The stem has 16 channels, the stages 16, 32 and 64 times ``width``. Parameters are named as in TRADES and
    RobustBench (``block1.layer.0.bn1``, ``convShortcut``, ``fc``), without the block ``sub_block1`` that
    TRADES stores and never uses. Convolutions are He-normal over fan-out, the head's bias 0.
    """

    kind: Literal["wide"] = "wide"
    depth: int = 34
    width: int = 10
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        check_wide("wide resnet", self.depth, self.width, self.activation)

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate representation is 64 times ``width``."""
        if min(signature.height, signature.width) < 4:
            raise ValueError(
                "a wide resnet halves its input twice and needs at least 4x4 pixels, "
                f"not {signature.height}x{signature.width}"
            )
        return _WideResNet(self.depth, self.width, self.activation, signature)
