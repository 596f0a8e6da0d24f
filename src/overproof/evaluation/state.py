"""What an examination writes down of a block of examples, and how blocks are put together."""

from collections.abc import Iterable

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


def joined(blocks: Iterable[ExampleState]) -> ExampleState:
    """Join the marks of blocks of examples, in the order given, on the CPU; sums are added. At least one block."""
    parts = list(blocks)
    names = [name for name in parts[0] if name not in _SUMS]
    sums = {name: torch.stack([part[name].cpu() for part in parts]).sum(dim=0) for name in _SUMS if name in parts[0]}
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in names} | sums


def placed(marks: ExampleState, device: torch.device) -> ExampleState:
    """Return the marks of a block on the device that it is examined on."""
    return {name: value if name in _SUMS else value.to(device) for name, value in marks.items()}
