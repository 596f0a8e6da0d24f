"""Multilayer perceptrons, and the chain of named layers they share with the plain convolutional networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone, Signature


class Chain(Backbone):
    """Named layers one after another, ``[N, C, H, W] -> [N, K]``; the last one is the head."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        *self._body, self._head = layers

    @property
    def head(self) -> nn.Linear:
        """The last layer, ``[N, F] -> [N, K]``."""
        head: nn.Linear = getattr(self, self._head)
        return head

    def embed(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to what the head reads, ``[N, F]``."""
        for name in self._body:
            x = getattr(self, name)(x)
        return x


def dense_layers(features: int, hidden: tuple[int, ...], classes: int, *, first_relu: int = 1) -> dict[str, nn.Module]:
    """Return ``flatten``, then ``fc1``, ``relu``, ``fc2``, ... and the head as the last ``fc``."""
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, width in enumerate(hidden):
        layers[f"fc{i + 1}"] = nn.Linear(features, width)
        layers[f"relu{first_relu + i}"] = nn.ReLU()
        features = width
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(features, classes)
    return layers


@dataclass(frozen=True, kw_only=True)
class MLP(Architecture):
    """Flattened pixels through linear layers with ReLU; no hidden layer at all leaves a linear classifier.

    Parameters are named ``fc1``, ``fc2``, ...; initialisation is PyTorch's default.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"every hidden width of an mlp must be at least 1, not {self.hidden}")

    def build(self, signature: Signature) -> Backbone:
        """Return the network; the penultimate width is the last hidden one."""
        pixels = signature.channels * signature.height * signature.width
        return Chain(dense_layers(pixels, self.hidden, signature.classes))
