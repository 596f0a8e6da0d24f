"""What every family of networks shares: a frozen description, and a backbone with a linear head."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from overproof.signature import Signature


class Backbone(nn.Module, ABC):
    """A network whose logits are one linear layer over a penultimate representation."""

    @property
    @abstractmethod
    def head(self) -> nn.Linear:
        """The last linear layer, ``[N, F] -> [N, K]``."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Map normalised images ``[N, C, H, W]`` to the penultimate representation ``[N, F]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``[N, C, H, W]`` to logits ``[N, K]``."""
        logits: Tensor = self.head(self.embed(x))
        return logits


class Architecture(ABC):
    """The frozen description of a network; every subclass is a keyword-only frozen dataclass with a ``kind``."""

    kind: str

    @abstractmethod
    def build(self, signature: Signature) -> nn.Module:
        """Return a freshly initialised network for this task; raise ``ValueError`` where the input is too small.

        A ``Backbone`` in all families of this package; other people's networks are any ``nn.Module``.
        """

    @property
    def label(self) -> str:
        """What tables and files call it."""
        return self.kind


__all__ = ["Architecture", "Backbone", "Signature"]
