"""How the arithmetic of a run is carried out; what is computed, and every draw, is the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from overproof.models.inference.fused import use_cuda_graphs


@dataclass(frozen=True, kw_only=True)
class Performance:
    """The recipe's ``performance`` node.

    ``compile``: ``networks`` compiles all networks by ``torch.compile``, which rounds otherwise; ``graphs``
    (experimental: no GPU has run it yet) replays the passes of searches as CUDA graphs, and does nothing on CPUs;
    ``auto`` is ``networks`` on CUDA and ``off`` elsewhere. ``tf32`` lets GPUs round the factors of fp32 products to 10
    bits while training; an evaluation never does.
    """

    compile: Literal["auto", "off", "networks", "graphs"] = "auto"
    tf32: bool = True

    def compiles(self, device: torch.device) -> Literal["off", "networks", "graphs"]:
        """Return what is compiled on this device."""
        if self.compile == "networks":
            return "networks"
        if device.type != "cuda" or self.compile == "off":
            return "off"
        return "networks" if self.compile == "auto" else "graphs"

    def prepare(self, networks: Iterable[nn.Module], device: torch.device) -> None:
        """Let the networks be compiled or recorded, in place, when they are first asked; their weights stay theirs."""
        compiled = self.compiles(device)
        for network in networks:
            if compiled == "networks":
                network.compile()
            elif compiled == "graphs":
                use_cuda_graphs(network)
