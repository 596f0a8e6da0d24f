"""What a verdict is: a claim about examples, how many bear it out, and how far that can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev
from typing import Any

Z_95 = NormalDist().inv_cdf(0.975)
"""What the halves of a 95 % interval are in standard deviations of a normal estimate."""


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """``passed`` of ``of`` examples satisfy the ``claim``; took ``seconds``. Evidence from disjoint shards adds up."""

    claim: str
    passed: int
    of: int
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.passed <= self.of:
            raise ValueError(f"{self.claim}: {self.passed} of {self.of} is no count")

    @property
    def share(self) -> float:
        """The share that passed, in [0, 1]; NaN without examples."""
        return self.passed / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval of the share (Wilson 1927), in [0, 1]; (0, 1) without examples."""
        if not self.of:
            return 0.0, 1.0
        from scipy.stats import binomtest

        bounds = binomtest(self.passed, self.of).proportion_ci(confidence_level=0.95, method="wilson")
        return float(bounds.low), float(bounds.high)

    def __add__(self, other: "Proportion") -> "Proportion":
        if other.claim != self.claim:
            raise ValueError(f"evidence for {self.claim!r} and for {other.claim!r} cannot be added")
        return Proportion(
            claim=self.claim,
            passed=self.passed + other.passed,
            of=self.of + other.of,
            seconds=self.seconds + other.seconds,
        )

    def plain(self) -> dict[str, Any]:
        """Return the fields and the interval as JSON values."""
        return {
            "claim": self.claim,
            "passed": self.passed,
            "of": self.of,
            "share": self.share if self.of else None,
            "interval": list(self.interval),
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def difference_interval(before: Proportion, after: Proportion) -> tuple[float, float]:
    """Return a 95 % interval of ``before.share - after.share``, Newcombe's (1998, method 10) of two Wilson intervals.

    The shares are treated as of different images; of the same ones, the interval is wider than it need be.
    """
    difference = before.share - after.share
    (low, high), (below, above) = before.interval, after.interval
    return (
        difference - math.hypot(before.share - low, above - after.share),
        difference + math.hypot(high - before.share, after.share - below),
    )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds and the half width of its 95 % Student interval (infinite for one seed)."""

    mean: float
    half_width: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one value per seed; at least one."""
        from scipy.stats import t

        n = len(values)
        half = float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n) if n > 1 else math.inf
        return cls(mean=mean(values), half_width=half, seeds=n)

    def __str__(self) -> str:
        width = f" ± {100 * self.half_width:.1f}" if self.seeds > 1 else ""
        return f"{100 * self.mean:.1f}{width}"
