"""ResNets for small images: 18/34/50, four stages from 64 channels, and the thin 8 to 110, three from 16."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_THIN_BLOCKS = {6 * count + 2: (count, count, count) for count in (1, 2, 3, 5, 7, 9, 18)}
DEPTHS = (*_BLOCKS, *_THIN_BLOCKS)


def _conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)


def _conv1x1(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)


def _skip(in_planes: int, planes: int, stride: int) -> nn.Module:
    if stride == 1 and in_planes == planes:
        return nn.Identity()
    return nn.Sequential(_conv1x1(in_planes, planes, stride), nn.BatchNorm2d(planes))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip, whose name differs between the two lineages of checkpoints."""

    expansion = 1
    skip = "shortcut"

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.add_module(self.skip, _skip(in_planes, planes, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        total: Tensor = self.relu2(out + getattr(self, self.skip)(x))
        return total


class _ThinBlock(_BasicBlock):
    skip = "downsample"


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        wide = self.expansion * planes
        self.conv1 = _conv1x1(in_planes, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU()
        self.conv3 = _conv1x1(planes, wide)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut = _skip(in_planes, wide, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        total: Tensor = self.relu3(out + self.shortcut(x))
        return total


_Block = type[_BasicBlock] | type[_Bottleneck]


def _stage(block: _Block, in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = block(in_planes, planes, stride)
    return nn.Sequential(first, *(block(block.expansion * planes, planes, 1) for _ in range(1, blocks)))


class _ResNet(Backbone):
    """Stem, ``layer1``, ``layer2``, ... of which all but the first halve the image, global average, head."""

    def __init__(
        self,
        block: _Block,
        blocks: tuple[int, ...],
        planes: tuple[int, ...],
        head: str,
        signature: Signature,
        stem_stride: int,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(signature.channels, planes[0], stem_stride)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU()
        self._stages: list[str] = []
        in_planes = planes[0]
        for i, (count, width) in enumerate(zip(blocks, planes, strict=True), start=1):
            self.add_module(f"layer{i}", _stage(block, in_planes, width, count, stride=1 if i == 1 else 2))
            self._stages.append(f"layer{i}")
            in_planes = block.expansion * width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self._head = head
        self.add_module(head, nn.Linear(in_planes, signature.classes))

    @property
    def head(self) -> nn.Linear:
        head: nn.Linear = getattr(self, self._head)
        return head

    def embed(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        for stage in self._stages:
            out = getattr(self, stage)(out)
        embedding: Tensor = self.flatten(self.pool(out))
        return embedding


@dataclass(frozen=True, kw_only=True)
class ResNet(Architecture):
    """Residual networks with post-activation blocks for small images (He et al., 2015).

    Depth 18, 34 and 50 (bottlenecks) are the 64-128-256-512 networks of kuangliu/pytorch-cifar: 3x3 stem of
    stride 1, no max-pooling, parameters ``layer1.0.shortcut.0``, ``linear``, PyTorch's default
    initialisation. Depth 8, 14, 20, 32, 44, 56 and 110 (6n + 2) are the 16-32-64 networks of the paper's CIFAR
    section as in chenyaofo/pytorch-cifar-models: parameters ``layer2.0.downsample.0``, ``fc``, convolutions He-normal
    over fan-out. ``width`` multiplies every channel count. A ``stem_stride`` of 2 halves the image at once, which makes
    a pass four times as cheap.
    """

    kind: Literal["resnet"] = "resnet"
    depth: int = 18
    width: float = 1.0
    stem_stride: int = 1

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            known = ", ".join(map(str, DEPTHS[:-1]))
            raise ValueError(f"a resnet has depth {known} or {DEPTHS[-1]}, not {self.depth}")
        if self.width <= 0:
            raise ValueError(f"the width of a resnet multiplies its channels and must be positive, not {self.width}")
        if self.stem_stride < 1:
            raise ValueError(f"the stem_stride of a resnet must be at least 1, not {self.stem_stride}")

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate width is 512, 2048 (depth 50) or 64 (thin) times ``width``."""
        thin = self.depth in _THIN_BLOCKS
        blocks = _THIN_BLOCKS[self.depth] if thin else _BLOCKS[self.depth]
        least = self.stem_stride * 2 ** (len(blocks) - 1)
        if min(signature.height, signature.width) < least:
            raise ValueError(
                f"resnet-{self.depth} halves its input {len(blocks) - 1} times after its stem and needs "
                f"at least {least}x{least} pixels, not {signature.height}x{signature.width}"
            )
        stem = 16 if thin else 64
        planes = tuple(max(1, round(stem * 2**i * self.width)) for i in range(len(blocks)))
        if not thin:
            block = _Bottleneck if self.depth == 50 else _BasicBlock
            return _ResNet(block, blocks, planes, "linear", signature, self.stem_stride)
        network = _ResNet(_ThinBlock, blocks, planes, "fc", signature, self.stem_stride)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network
