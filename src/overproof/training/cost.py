"""What a method costs: passes of each network per batch, measured on a toy and never typed."""

from collections import Counter
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
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
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
def passes(method: Method, percent: int = 100) -> Mapping[str, Passes]:
    """Return the passes per batch of ``student``, each auxiliary model and each teacher, when so much of a run is over.

    Lets the loop take a batch of three 4x4 images through small MLPs and counts. Leaves torch's random state as it was.
    """
    images = ImageSet("toy", torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4), torch.arange(3), ("a", "b", "c"))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        networks = {
            name: Counted(build(MLP(hidden=(5,)), images.signature))
            for name in ("student", *method.auxiliary_models, *method.roles)
        }
        for role in method.roles:
            freeze(networks[role].network)
        loop = Loop(
            method,
            networks["student"].as_classifier(),
            {role: networks[role].as_classifier() for role in method.roles},
            Loader(images, 3, Augment(), seed=0),
            Training(epochs=101, batch=3, precision="fp32"),
            seed=0,
            auxiliary_models={name: networks[name].as_classifier() for name in method.auxiliary_models},
        )
        loop.epoch = percent
        next(loop.run())
    counted = {name: Passes(forward=network.forwards, backward=network.backwards) for name, network in networks.items()}
    return MappingProxyType(counted)  # it is cached, so nobody may change it


def passes_of_epoch(method: Method, epoch: int, epochs: int, batches: int) -> dict[str, Passes]:
    """Return the passes of every network in one epoch (from 0) of a run, to a hundredth of the run's schedules.

    Nothing where the toy on which they are counted is not enough for a method of other people's.
    """
    try:
        return _passes_of_epoch(method, epoch, epochs, batches)
    except Exception:  # what a run says of its cost must not end it
        return {}


def _passes_of_epoch(method: Method, epoch: int, epochs: int, batches: int) -> dict[str, Passes]:
    last = max(1, epochs * batches - 1)
    percents = Counter(100 * (epoch * batches + batch) // last for batch in range(batches))
    if passes(method, 0) == passes(method, 100):  # nothing grows or begins
        percents = Counter({100: batches})
    return {
        name: Passes(
            forward=sum(count * passes(method, percent)[name].forward for percent, count in percents.items()),
            backward=sum(count * passes(method, percent)[name].backward for percent, count in percents.items()),
        )
        for name in passes(method)
    }


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
