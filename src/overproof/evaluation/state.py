"""What an examination writes down of a block of examples, and how blocks are put together."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

ExampleState = dict[str, Tensor]
"""What is known of one block of B examples under T trials, K classes; a flat dict of tensors, so that it can be saved.

``label``, ``prediction`` int64 [B]; ``clean_logits``, ``attacked_logits`` float [B, K]; ``survived`` bool [B, T], true
where a trial did not break the example (or was not run on it); ``margin``, ``norm`` [B] and ``image``
[B, C, H, W] of the worst point found, which is the clean image where nothing worse was; ``forward``, ``backward`` int64
[B, T] passes; ``seconds`` float64 [T + 1], clean first; ``passes`` int64 [], how many are done.
"""

_SUMS = ("seconds", "passes", "stage_seconds")  # no values of examples; kept on the CPU, whatever the device


def join_blocks(blocks: Iterable[ExampleState]) -> ExampleState:
    """Join the state of blocks of examples, in the order given, on the CPU; sums are added. At least one block."""
    parts = list(blocks)
    names = [name for name in parts[0] if name not in _SUMS]
    sums = {name: torch.stack([part[name].cpu() for part in parts]).sum(dim=0) for name in _SUMS if name in parts[0]}
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in names} | sums


def move_state(state: ExampleState, device: torch.device) -> ExampleState:
    """Return the state of a block on the device that it is examined on."""
    return {name: value if name in _SUMS else value.to(device) for name, value in state.items()}


@dataclass(frozen=True, eq=False)
class ExampleResults(ABC):
    """What was found of N examples: the state of their blocks, one after the other, on the CPU.

    A subclass says what the state adds up to, and what is recorded of each example.
    """

    state: ExampleState

    @classmethod
    def of(cls, blocks: Iterable[ExampleState], **setting: Any) -> Self:
        """Join the state of blocks, in the order given; at least one. ``setting`` are the subclass's other fields."""
        return cls(join_blocks(blocks), **setting)

    @abstractmethod
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """Return what is recorded of the examples as JSON values, one column of N for each name."""

    def records(self, **first: Sequence[Any]) -> list[dict[str, Any]]:
        """Return one record per example: the columns given, which come first, and those of the results."""
        columns = {**first, **self.columns()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
