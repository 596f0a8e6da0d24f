"""Timing two ways to do the same work, in turn, so that a machine whose speed drifts does not decide the result."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter


@dataclass(frozen=True)
class Ratio:
    """``a`` over ``b``: the median of the paired ratios, the smallest and the largest, and both medians in seconds."""

    median: float
    low: float
    high: float
    seconds_a: float
    seconds_b: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(
    a: Callable[[], object], b: Callable[[], object], rounds: int, clock: Callable[[], float] = perf_counter
) -> Ratio:
    """Run a, b, a, b, ... after one warm-up of each; return the ratio of their times.

    ``process_time`` as the clock leaves other work on the machine out, where one thread does all of ours.
    """
    a(), b()
    pairs = [(_seconds(a, clock), _seconds(b, clock)) for _ in range(rounds)]
    ratios = sorted(first / second for first, second in pairs)
    return Ratio(
        median=median(ratios),
        low=ratios[0],
        high=ratios[-1],
        seconds_a=median(first for first, _ in pairs),
        seconds_b=median(second for _, second in pairs),
        rounds=rounds,
    )


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started
