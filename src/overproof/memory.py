"""Work that fits into memory: as many examples at a time as it holds."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def within_memory(work: Callable[[int], T], chunk: int) -> tuple[T, int]:
    """Do the work with ``chunk`` examples at a time, or half as many where memory runs out, and again.

    Returns what the work did and the chunk that fitted. Raises what the device raised where not even one fits.
    """
    while True:
        try:
            return work(chunk), chunk
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if chunk == 1 or not ran_out(problem):
                raise
            torch.cuda.empty_cache()
            chunk //= 2


def piecewise(work: Callable[[Tensor], None], rows: Tensor, chunk: int) -> Tensor:
    """Do the work on at most ``chunk`` of the ``rows`` ``[R]`` at a time; return those too large even alone, ``[L]``.

    The work is called with consecutive parts of the rows, and again with half of a part that did not fit.
    """
    left = []
    while len(rows):
        chunk = min(chunk, len(rows))
        part = rows
        try:
            _, chunk = within_memory(lambda size, part=part: work(part[:size]), chunk)  # type: ignore[misc]
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not ran_out(problem):
                raise
            chunk = 1
            left.append(part[:1])
        rows = part[chunk:]
    return torch.cat([rows, *left])


_SAID = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory", "bad_alloc")
"""What a plain ``RuntimeError`` says where a CPU's memory ran out: torch's allocator, oneDNN twice, the C++ library."""


def ran_out(problem: BaseException) -> bool:
    """Tell whether memory ran out; on a CPU torch says so in a plain ``RuntimeError``."""
    said = str(problem)
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _SAID)
