"""DeepMind's wide ResNets, the networks of Gowal et al. (2020) and of most strong public teachers since."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature
from overproof.models.architectures.wide import Activation, activation_layer, check_wide


class _Block(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_planes)
        self.relu_0 = activation_layer(activation)
        # "SAME" padding as these networks were trained with: a stride of 2 pads below and on the right only.
        self.pad = nn.Identity() if stride == 1 else nn.ZeroPad2d((0, 1, 0, 1))
        self.conv_0 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=int(stride == 1), bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(planes)
        self.relu_1 = activation_layer(activation)
        self.conv_1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = None if in_planes == planes else nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu_0(self.batchnorm_0(x))
        out: Tensor = self.conv_1(self.relu_1(self.batchnorm_1(self.conv_0(self.pad(activated)))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class _Group(nn.Module):
    def __init__(self, count: int, in_planes: int, planes: int, stride: int, activation: Activation) -> None:
        super().__init__()
        first = _Block(in_planes, planes, stride, activation)
        self.block = nn.Sequential(first, *(_Block(planes, planes, 1, activation) for _ in range(1, count)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class _DMWideResNet(Backbone):
    def __init__(self, depth: int, width: int, activation: Activation, signature: Signature) -> None:
        super().__init__()
        count = (depth - 4) // 6
        self.init_conv = nn.Conv2d(signature.channels, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            _Group(count, 16, 16 * width, 1, activation),
            _Group(count, 16 * width, 32 * width, 2, activation),
            _Group(count, 32 * width, 64 * width, 2, activation),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.relu = activation_layer(activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(64 * width, signature.classes)

    @property
    def head(self) -> nn.Linear:
        return self.logits

    def embed(self, x: Tensor) -> Tensor:
        out = self.layer(self.init_conv(x))
        embedding: Tensor = self.flatten(self.pool(self.relu(self.batchnorm(out))))
        return embedding


@dataclass(frozen=True, kw_only=True)
class DMWideResNet(Architecture):
    """Wide residual networks as DeepMind released them ("Uncovering the limits", Gowal et al., 2020).

    They differ from ``WideResNet`` in parameter names (RobustBench's: ``init_conv``,
    ``layer.0.block.0.batchnorm_0``, ``logits``) and in padding, which is TensorFlow's "SAME", so the weights
    of one do not fit the other's function. The official network normalises inside; here the classifier around
    it does. PyTorch's default initialisation.
    """

    kind: Literal["dm_wide"] = "dm_wide"
    depth: int = 70
    width: int = 16
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        check_wide("dm_wide resnet", self.depth, self.width, self.activation)

    def build(self, signature: Signature) -> Backbone:
        """Return the network; its penultimate representation is 64 times ``width``."""
        # On an odd side the padded convolution and the strided shortcut would differ by one pixel.
        if signature.height % 4 or signature.width % 4:
            raise ValueError(
                "a dm_wide resnet halves its input twice and needs sides that are multiples of 4, "
                f"not {signature.height}x{signature.width}"
            )
        return _DMWideResNet(self.depth, self.width, self.activation, signature)
