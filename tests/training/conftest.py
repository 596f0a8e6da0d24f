"""A net small enough to train in milliseconds, with the layers that make resuming hard."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.functional import cross_entropy
from overproof.methods.method import Method
from overproof.models.classifier import Classifier
from overproof.signature import Signature
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Constant, Training


@dataclass(frozen=True, kw_only=True)
class Spy(Method):
    """Cross-entropy twice a batch if asked; writes down what it sees and keeps a running sum in its memory."""

    kind: str = "spy"
    times: int = 1
    seen: list[Any] = field(default_factory=list, compare=False)
    roles: ClassVar[tuple[str, ...]] = ()

    @property
    def updates(self):
        return self.times

    def initial_state(self, like):
        return {"sum": like.x.new_zeros(())}

    def losses(self, step):
        for _ in range(self.times):
            draw = torch.rand(())
            self.seen.append((step.progress, float(draw), float(step.state["sum"])))
            logits = step.student(step.x + 0.1 * draw)
            step.state["sum"] = step.state["sum"] + logits.detach().sum()
            yield {"label": cross_entropy(logits, step.y).mean(), "decay": 1e-3 * logits.square().mean()}


@pytest.fixture
def spy():
    return Spy


@pytest.fixture
def net():
    """Return a function: a seeded classifier with convolution and BatchNorm."""

    def make(seed=0, side=4):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * side * side, 3),
        )
        return Classifier(layers, Signature(channels=1, height=side, width=side, classes=3))

    return make


@pytest.fixture
def images():
    """Thirty random images of three classes."""
    draws = torch.Generator().manual_seed(9)
    pixels = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8, generator=draws)
    return ImageSet("made", pixels, torch.arange(30) % 3, ("a", "b", "c"))


@pytest.fixture
def looping(net, images, spy):
    """Return a function: a loop over four batches an epoch (8, 8, 8, 6)."""

    def make(method=None, *, student=None, teachers=None, augment=None, seed=0, **options):
        options = {
            "epochs": 3,
            "batch": 8,
            "optimiser": SGD(lr=0.1),
            "schedule": Constant(),
            "precision": "fp32",
        } | options
        training = Training(**options)
        loader = Loader(images, training.batch, augment or Augment(crop=1, flip=True), seed)
        return Loop(method or spy(), student or net(), teachers or {}, loader, training, seed)

    return make
