"""Bounds that take no longer than they may: rows in portions, timed, and given up once the rest would take too long."""

from collections.abc import Iterator
from math import inf
from time import monotonic

import torch
from torch import Tensor

_AT_ONCE = 2**22  # numbers of rows that are so few that nothing is gained by timing a part of them
_FIRST = 2**20  # numbers of the first portion: enough that its time says something about the others
_GROWTH = 4


class NotAffordedError(Exception):
    """What was begun would take longer than the time that is left for it."""


def portions(rows: int, size: int, most: int, until: float, device: torch.device) -> Iterator[Tensor]:
    """Yield indices of ``rows`` rows of ``size`` numbers each, at most ``most`` at a time, until a moment of the clock.

    Where there is a limit and there are many, the first portions are small and each is timed: raises
    ``NotAffordedError`` as soon as the rows that are left would take longer than what is left of the time. What is cut
    where does not depend on the clock.
    """
    timed = until < inf and rows * size > _AT_ONCE
    portion = min(most, max(1, _FIRST // size)) if timed else most
    started, done = monotonic(), 0
    if started > until:
        raise NotAffordedError
    while done < rows:
        part = torch.arange(done, min(done + portion, rows), device=device)
        yield part
        done += len(part)
        portion = min(most, _GROWTH * portion)
        now = monotonic()
        if timed and now + (now - started) / done * (rows - done) > until:
            raise NotAffordedError
