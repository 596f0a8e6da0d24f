"""Steps that only move values: found out by letting them move numbers that count the values.

A slice, a transposition, the class token before others: whatever torch's function does, it does it to a layer of
numbers as well. So no step of the kind needs a rule of its own, and where the batch lies afterwards is seen, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from overproof.bounds.layers import halves
from overproof.bounds.operators import Shape

ELSEWHERE = -1.0
"""Stands for every value that is from no layer."""


class BatchMixedError(Exception):
    """What a step gives is not one part for each image."""


@dataclass(frozen=True)
class Move:
    """Where a step takes each value from: ``index`` counts the values of its layers one after another, flattened.

    It has the shape of the output of one image; -1 is a value that is from no layer. ``batch`` is the dimension of the
    batch in torch's output, with ``parts`` of each image in it (see ``Layer``).
    """

    index: Tensor
    batch: int
    parts: int | None = None

    def keeps_order(self, size: int) -> bool:
        """Whether the step takes all of ``size`` values in their order."""
        return self.index.numel() == size and torch.equal(self.index.flatten(), torch.arange(size))


def moves(function: Callable[..., Any], layers: Sequence[tuple[Shape, int, int | None]]) -> tuple[Move, ...]:
    """Return what a function of layers does to them, a move for each tensor that it gives.

    The layers are told by their shapes for one image, the dimensions of their batches and the parts of an image in
    them; the function gets one float64 tensor for each, for a batch of two. Raises ``BatchMixedError``.
    """
    total, offset, numbers = sum(prod(shape) for shape, *_ in layers), 0, []
    for shape, batch, parts in layers:
        one = torch.arange(offset, offset + prod(shape), dtype=torch.float64).view(shape)
        joined = torch.stack if parts is None else torch.cat
        numbers.append(joined([one, one + total], dim=batch))
        offset += prod(shape)
    outputs = function(*numbers)
    return tuple(_move(each, total) for each in ([outputs] if isinstance(outputs, Tensor) else outputs))


def _move(numbers: Tensor, total: int) -> Move:
    for batch, size in enumerate(numbers.shape):
        if size < 2 or size % 2:
            continue
        parts = None if size == 2 else size // 2
        both = halves(numbers, batch, parts)
        assert both is not None
        first, second = both
        own = torch.where(first == ELSEWHERE, first, first + total)
        if torch.equal(second, own) and bool((first < total).all()):
            return Move(first.long(), batch, parts)
    raise BatchMixedError
