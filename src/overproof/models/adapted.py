"""A network with one more linear layer before its head, so that its representation has a chosen width."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from overproof.models.architectures.architecture import Architecture, Backbone
from overproof.models.architectures.convnet import ConvNet
from overproof.models.classifier import linear_layer
from overproof.signature import Signature


@dataclass(frozen=True, kw_only=True)
class FeatureAdapter(Architecture):
    """``base`` with a trained linear adapter to ``features`` numbers, no activation, and a new head (RRM's ResNet-50).

    The base's own head is left out.
    """

    kind: Literal["adapted"] = "adapted"
    base: Architecture = field(default_factory=ConvNet)
    features: int = 512

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features must be at least 1, got {self.features}")

    def build(self, signature: Signature) -> Backbone:
        """Return the base with adapter and head in PyTorch's default initialisation."""
        base = self.base.build(signature)
        if isinstance(base, Backbone):
            return _Adapted(base, self.features, signature.classes)
        return _AdaptedModule(base, getattr(self.base, "features", ""), self.features, signature.classes)


class _Adapted(Backbone):
    def __init__(self, base: Backbone, features: int, classes: int) -> None:
        super().__init__()
        self.adapter = nn.Linear(base.head.in_features, features)
        self.linear = nn.Linear(features, classes)
        _remove(base, base.head)
        self.base = base

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def embed(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.adapter(self.base.embed(x))
        return adapted


class _AdaptedModule(Backbone):
    """The same of any network: its last linear layer (or the one that is named) hands on what it is given."""

    def __init__(self, base: nn.Module, layer: str, features: int, classes: int) -> None:
        super().__init__()
        own = linear_layer(base, layer)
        self.adapter = nn.Linear(own.in_features, features)
        self.linear = nn.Linear(features, classes)
        for module in base.modules():
            for name, child in list(module.named_children()):
                if child is own:
                    setattr(module, name, nn.Identity())
        self.base = base

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def embed(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.adapter(self.base(x).flatten(1))
        return adapted


def _remove(network: nn.Module, layer: nn.Module) -> None:
    """Take a layer out of its network, so that no parameter without use is trained or counted."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if child is layer:
                delattr(module, name)
