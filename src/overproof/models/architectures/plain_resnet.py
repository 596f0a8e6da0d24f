"""Residual networks without BatchNorm and pooling, as in networks that are made to be verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature

_MOST_STAGES = 5  # whose strides are tried


class _Block(nn.Module):
    """Two 3x3 convolutions with a bias, and a skip, which is a 1x1 convolution where shapes change."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1)
        same = stride == 1 and in_planes == planes
        self.shortcut = nn.Sequential(*([] if same else [nn.Conv2d(in_planes, planes, 1, stride=stride)]))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_planes, H, W]`` to ``[N, planes, H / stride, W / stride]``."""
        total: Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))
        return total


class _PlainResNet(Backbone):
    """Stem, ``layer1``, ``layer2``, ..., flattened in channel, row, column order; ``linear1``, ``linear2``, ..."""

    def __init__(self, made: "PlainResNet", signature: Signature) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(signature.channels, made.stem, 3, stride=made.stem_stride, padding=1)
        self.relu = nn.ReLU()
        self._body: list[str] = []
        planes, height, width = made.stem, *made.sides(signature)
        for i, (channels, blocks, stride) in enumerate(
            zip(made.channels, made.blocks, made.stride, strict=True), start=1
        ):
            first = _Block(planes, channels, stride)
            stage = nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(1, blocks)))
            self._add(f"layer{i}", stage)
            planes = channels
        features = planes * height * width
        self._add("flatten", nn.Flatten())
        for i, hidden in enumerate(made.hidden, start=1):
            self._add(f"linear{i}", nn.Linear(features, hidden))
            self._add(f"relu{i}", nn.ReLU())
            features = hidden
        self._head = f"linear{len(made.hidden) + 1}"
        self.add_module(self._head, nn.Linear(features, signature.classes))

    def _add(self, name: str, layer: nn.Module) -> None:
        self.add_module(name, layer)
        self._body.append(name)

    @property
    def head(self) -> nn.Linear:
        head: nn.Linear = getattr(self, self._head)
        return head

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv1(x))
        for name in self._body:
            out = getattr(self, name)(out)
        return out


@dataclass(frozen=True, kw_only=True)
class PlainResNet(Architecture):
    """Residual blocks with biased convolutions and no BatchNorm, flattened, then linear layers with ReLU.

    ``stem`` and ``stem_stride`` are the channels and the stride of the first 3x3 convolution; ``channels``, ``blocks``
    and ``stride`` have one number for each stage, whose first block has the stride; ``hidden`` are the widths of the
    linear layers before the last one. The default is ``resnet2b`` of the verification benchmarks (Wang et al.,
    "Beta-CROWN", 2021). Parameters are named ``conv1``, ``layer1.0.conv1``, ``layer1.0.shortcut.0``, ``linear1``, ...;
    initialisation is PyTorch's default.
    """

    kind: Literal["plain_resnet"] = "plain_resnet"
    stem: int = 8
    stem_stride: int = 2
    channels: tuple[int, ...] = (16,)
    blocks: tuple[int, ...] = (2,)
    stride: tuple[int, ...] = (2,)
    hidden: tuple[int, ...] = (100,)

    def __post_init__(self) -> None:
        if not self.channels or not len(self.channels) == len(self.blocks) == len(self.stride):
            raise ValueError(
                "channels, blocks and stride of a plain_resnet need one number for each of its stages, not "
                f"{self.channels}, {self.blocks} and {self.stride}"
            )
        for name in ("stem", "stem_stride", "channels", "blocks", "stride", "hidden"):
            values = getattr(self, name)
            if any(value < 1 for value in (values if isinstance(values, tuple) else (values,))):
                raise ValueError(f"{name} of a plain_resnet must be at least 1, not {values}")

    def sides(self, signature: Signature) -> tuple[int, int]:
        """Return height and width of what is flattened."""
        height, width = signature.height, signature.width
        for stride in (self.stem_stride, *self.stride):
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
        return height, width

    def build(self, signature: Signature) -> Backbone:
        """Return the network; the penultimate width is the last of ``hidden``."""
        return _PlainResNet(self, signature)


def plain_resnets(tensors: Mapping[str, Tensor], size: Signature) -> list[PlainResNet]:
    """Return the plain residual networks that tensors by their names may be, for images of this size.

    Widths and depths are in the shapes; as strides 1 and 2 are tried, which must lead to the size that the first linear
    layer reads. Global average pooling would look like a last map of one pixel, which is therefore none of them.
    """
    first = "layer1.0.conv1.weight"
    prefixes = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    prefix = prefixes[0] if prefixes else ""
    if not prefixes or f"{prefix}conv1.weight" not in tensors or tensors[f"{prefix}conv1.weight"].dim() != 4:
        return []
    shapes = {name.removeprefix(prefix): tuple(value.shape) for name, value in tensors.items()}
    channels: list[int] = []
    blocks: list[int] = []
    while len(channels) <= _MOST_STAGES and len(shapes.get(f"layer{len(channels) + 1}.0.conv1.weight", ())) == 4:
        stage = f"layer{len(channels) + 1}"
        channels.append(shapes[f"{stage}.0.conv1.weight"][0])
        blocks.append(1)
        while f"{stage}.{blocks[-1]}.conv1.weight" in shapes:
            blocks[-1] += 1
    hidden: list[int] = []
    while len(shapes.get(f"linear{len(hidden) + 1}.weight", ())) == 2:
        hidden.append(shapes[f"linear{len(hidden) + 1}.weight"][0])
    if not 1 <= len(channels) <= _MOST_STAGES or not hidden or min(*channels, *hidden, shapes["conv1.weight"][0]) < 1:
        return []
    features = shapes["linear1.weight"][1]
    candidates = []
    for stem_stride, *strides in product((1, 2), repeat=1 + len(channels)):
        one = PlainResNet(
            stem=shapes["conv1.weight"][0],
            stem_stride=stem_stride,
            channels=tuple(channels),
            blocks=tuple(blocks),
            stride=tuple(strides),
            hidden=tuple(hidden[:-1]),
        )
        height, width = one.sides(size)
        changed = {i for i in range(len(channels)) if f"layer{i + 1}.0.shortcut.0.weight" in shapes}
        before = (one.stem, *channels)
        needed = {i for i, stride in enumerate(strides) if stride != 1 or before[i] != channels[i]}
        if height * width > 1 and channels[-1] * height * width == features and needed == changed:
            candidates.append(one)
    return candidates
