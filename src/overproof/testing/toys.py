"""Small networks and images: enough to see what a method, an attack or an architecture does, in milliseconds."""

import torch
from torch import Tensor, nn

from overproof.data.images import Batch
from overproof.methods.method import Method, Step
from overproof.models.classifier import Classifier
from overproof.models.weights import freeze
from overproof.signature import Signature

TINY = Signature(channels=3, height=8, width=8, classes=4)
"""What ``tiny_classifier`` and ``tiny_batch`` are for."""


def tiny_classifier(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Classifier:
    """Return a network for ``tiny_batch`` with two BatchNorms whose statistics are not the identity, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, TINY.classes),
        )
        draw_statistics(layers)
    return Classifier(layers, TINY, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.25)).to(dtype)


def draw_statistics(network: nn.Module) -> nn.Module:
    """Draw the statistics of every BatchNorm, in place, so that its eval mode is no identity; return the network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def tiny_batch() -> Batch:
    """Return six images ``[6, 3, 8, 8]``, some of whose pixels are exactly 0 or 1, and labels of four classes."""
    x = (1.2 * torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.1).clamp(0, 1)
    return Batch(x, torch.arange(6) % TINY.classes)


def make_step(
    method: Method,
    *,
    student: Classifier | None = None,
    state: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    progress: float = 1.0,
) -> Step:
    """Return what a method sees of ``tiny_batch``: a student in train mode, silent teachers, auxiliary models."""
    batch = Batch(tiny_batch().x.to(dtype), tiny_batch().y)
    return Step(
        x=batch.x,
        y=batch.y,
        student=student or tiny_classifier(seed=100, dtype=dtype),
        teachers={role: freeze(tiny_classifier(seed, dtype=dtype)) for seed, role in enumerate(method.roles)},
        auxiliary_models={
            name: tiny_classifier(seed, dtype=dtype) for seed, name in enumerate(method.auxiliary_models, start=200)
        },
        state=method.initial_state(batch) if state is None else state,
        progress=progress,
    )


def modes(network: nn.Module) -> dict[str, bool]:
    """Return the mode of every submodule by its name: whether it trains."""
    return {name: module.training for name, module in network.named_modules()}
