"""How the arithmetic of a run is carried out; what is computed, and every draw, is the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Performance:
    """The recipe's ``performance`` node.

    ``compile``: ``networks`` compiles students, companions and teachers by ``torch.compile``, which rounds otherwise;
    ``auto`` does so on CUDA alone. ``tf32`` lets GPUs
    round the factors of fp32 products to 10 bits while training; an evaluation never does.
    """

    compile: Literal["auto", "off", "networks"] = "auto"
    tf32: bool = True

    def compiles(self, device: torch.device) -> bool:
        """Whether networks are compiled on this device."""
        return self.compile == "networks" or (self.compile == "auto" and device.type == "cuda")

    def prepare(self, networks: Iterable[nn.Module], device: torch.device) -> None:
        """Compile the networks in place, at their first call; weights and their names stay what they are."""
        if self.compiles(device):
            for network in networks:
                network.compile()
