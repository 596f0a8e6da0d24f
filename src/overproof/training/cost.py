"""What a method costs: passes of each network per batch, measured on a toy and never typed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.methods.method import Method
from overproof.models.classifier import Classifier
from overproof.models.mlp import MLP
from overproof.models.weights import build, freeze
from overproof.training.loop import Loop
from overproof.training.optimisation import Training


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Forward and backward passes of one network per batch; a backward may be for pixels, for weights, or for both."""

    forward: int
    backward: int

    def __str__(self) -> str:
        return f"{self.forward} forward, {self.backward} backward"


@cache
def passes(method: Method) -> Mapping[str, Passes]:
    """Return the passes per batch of ``student``, each companion and each teacher, at the end of a run.

    Lets the loop take two batches of three 4x4 images through small MLPs and counts the second, so that a warm-up is
    over. Leaves torch's random state as it was.
    """
    images = ImageSet("toy", torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4), torch.arange(3), ("a", "b", "c"))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        networks = {
            name: Counted(build(MLP(hidden=(5,)), images.signature))
            for name in ("student", *method.companions, *method.roles)
        }
        for role in method.roles:
            freeze(networks[role].network)
        loop = Loop(
            method,
            networks["student"].as_classifier(),
            {role: networks[role].as_classifier() for role in method.roles},
            Loader(images, 3, Augment(), seed=0),
            Training(epochs=2, batch=3, precision="fp32"),
            seed=0,
            companions={name: networks[name].as_classifier() for name in method.companions},
        )
        run = loop.run()
        next(run)
        before = {name: (network.forwards, network.backwards) for name, network in networks.items()}
        next(run)
    found = {
        name: Passes(forward=network.forwards - before[name][0], backward=network.backwards - before[name][1])
        for name, network in networks.items()
    }
    return MappingProxyType(found)  # it is cached, so nobody may change it


class Counted(nn.Module):
    """A classifier that counts how often it is asked, and how often a gradient comes back."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network
        self.forwards = 0
        self.backwards = 0

    def as_classifier(self) -> Classifier:
        """Return itself under the type that methods ask for; it answers everything they may ask."""
        return cast(Classifier, self)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, K]`` and representation ``[N, F]``."""
        self.forwards += 1
        logits, hidden = self.network.features(x)
        if hidden.requires_grad:
            hidden.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits, hidden

    def _count(self, gradient: Tensor) -> None:
        del gradient
        self.backwards += 1
