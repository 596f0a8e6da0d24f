"""Borrowing a model's mode: whoever changes it gives it back, module by module, whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the whole model into train or eval mode; on leaving, each submodule has the mode it had before.

    A BatchNorm that its owner froze stays frozen afterwards, which ``model.train()`` would not give.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
