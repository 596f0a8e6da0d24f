"""Plain convolutional networks as in certified training: ReLU, no BatchNorm, no pooling."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature
from overproof.models.architectures.mlp import Chain, dense_layers


def _side(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


@dataclass(frozen=True, kw_only=True)
class ConvNet(Architecture):
    """Convolutions with ReLU, flattened in channel, row, column order, then linear layers with ReLU.

    ``kernel``, ``stride`` and ``padding`` are one number for all convolutions or a tuple with one per
    convolution. The defaults are the "small" network of Wong et al., "Scaling provable adversarial defenses"
    (2018); its "large" one is ``channels=(32, 32, 64, 64), kernel=(3, 4, 3, 4), stride=(1, 2, 1, 2),
    hidden=(512, 512)``. Parameters are named ``conv1``, ..., ``fc1``, ...; initialisation is PyTorch's
    default.
    """

    kind: Literal["convnet"] = "convnet"
    channels: tuple[int, ...] = (16, 32)
    kernel: int | tuple[int, ...] = 4
    stride: int | tuple[int, ...] = 2
    padding: int | tuple[int, ...] = 1
    hidden: tuple[int, ...] = (100,)

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("a convnet needs at least one convolution; without any it is an mlp")
        for name, values, least in (
            ("channels", self.channels, 1),
            ("kernel", self.kernel, 1),
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("hidden", self.hidden, 1),
        ):
            each = values if isinstance(values, tuple) else (values,)
            if any(value < least for value in each):
                raise ValueError(f"{name} of a convnet must be at least {least}, not {values}")
        for name, values in (("kernel", self.kernel), ("stride", self.stride), ("padding", self.padding)):
            if isinstance(values, tuple) and len(values) != len(self.channels):
                raise ValueError(
                    f"{name} of a convnet must be one number or one per convolution ({len(self.channels)}), "
                    f"not {values}"
                )

    def build(self, signature: Signature) -> Backbone:
        """Return the network; ``ValueError`` where a convolution's kernel is larger than its padded input."""
        layers: dict[str, nn.Module] = {}
        planes, height, width = signature.channels, signature.height, signature.width
        kernels, strides, paddings = map(self._each, (self.kernel, self.stride, self.padding))
        for i, (channels, kernel, stride, padding) in enumerate(
            zip(self.channels, kernels, strides, paddings, strict=True), start=1
        ):
            layers[f"conv{i}"] = nn.Conv2d(planes, channels, kernel, stride=stride, padding=padding)
            layers[f"relu{i}"] = nn.ReLU()
            if min(height, width) + 2 * padding < kernel:
                raise ValueError(
                    f"an input of {signature.height}x{signature.width} is too small for this convnet: "
                    f"convolution {i} has a {kernel}x{kernel} kernel and sees {height}x{width}"
                )
            planes = channels
            height, width = _side(height, kernel, stride, padding), _side(width, kernel, stride, padding)
        features = planes * height * width
        layers |= dense_layers(features, self.hidden, signature.classes, first_relu=len(self.channels) + 1)
        return Chain(layers)

    def _each(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.channels)
