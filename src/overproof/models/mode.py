"""Borrowing a model: whoever changes its mode, or what learns, gives it back as it was, whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the whole model into train or eval mode; on leaving, each submodule has the mode it had before.

    A BatchNorm that its owner froze stays frozen afterwards, which ``model.train()`` would not give.
    """
    before = [(module, module.training) for module in model.modules()]
    put_into_mode(model, training=training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def put_into_mode(model: nn.Module, *, training: bool) -> None:
    """Do what ``model.train(training)`` does; a part that has one mode only (a ``torch.export`` program) keeps it."""
    try:
        model.train(training)
    except NotImplementedError:
        if getattr(model.train, "__func__", None) is nn.Module.train:  # it is one of the parts that has one mode only
            model.training = training
            for part in model.children():
                put_into_mode(part, training=training)


def frozen_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the layers with parameters of their own of which none learns."""
    own = {module: list(module.parameters(recurse=False)) for module in model.modules()}
    return tuple(
        module for module, values in own.items() if values and not any(value.requires_grad for value in values)
    )


def train_unfrozen(model: nn.Module) -> None:
    """Put a model into train mode, but for its frozen layers: a BatchNorm among them keeps its statistics."""
    model.train()
    for layer in frozen_layers(model):
        layer.training = False  # of this module alone: what lies in it may learn


@dataclass
class DefaultType:
    """Whether what was kept had to be given back."""

    changed: bool = False


@contextmanager
def default_type_kept() -> Iterator[DefaultType]:
    """Give back torch's default type, which other people's modules set when they are imported, made or asked."""
    before, kept = torch.get_default_dtype(), DefaultType()
    try:
        yield kept
    finally:
        kept.changed = torch.get_default_dtype() != before
        torch.set_default_dtype(before)


@contextmanager
def no_gradient() -> Iterator[None]:
    """Be ``torch.no_grad()`` for a network that learns in the same step: autocast remembers nothing of its passes.

    Up to torch 2.10 autocast kept what it had rounded of weights without a gradient, and gave it to the passes that
    learn as well, whose weights then got none.
    """
    remembered = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(remembered)


@contextmanager
def compiled_for_pixels(model: nn.Module) -> Iterator[None]:
    """Let the weights of the compiled networks in a model need no gradient; on leaving, they need it as before.

    A compiled backward pass computes every gradient that its forward pass might be asked for, so one to the pixels
    alone would cost as much as a step of training. Networks that are not compiled leave out what nobody asks for.
    """
    learning = {
        value
        for network in model.modules()
        if network._compiled_call_impl is not None
        for value in network.parameters()
        if value.requires_grad
    }
    for value in learning:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in learning:
            value.requires_grad_()
