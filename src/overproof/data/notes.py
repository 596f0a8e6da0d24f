"""Sentences about what was read of a data set, and what was not."""

from collections.abc import Iterable, Sequence

_SHOWN = 10  # names in one sentence


def counted(number: int, noun: str) -> str:
    """Return ``1 image``, ``1,200 images``: a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def joined(parts: Iterable[str]) -> str:
    """Return ``a``, ``a and b``, ``a, b and c``; empty parts are left out."""
    *before, last = [part for part in parts if part] or [""]
    return f"{', '.join(before)} and {last}" if before else last


def first_of(names: Sequence[str]) -> str:
    """Return the first ten names, and how many there are beyond them."""
    more = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")


def was(number: int) -> str:
    """Return the verb of so many things that are left out."""
    return "was left out" if number == 1 else "were left out"
