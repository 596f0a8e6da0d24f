"""Two networks that should be one: how far their logits differ, and whose verdicts change."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from overproof.errors import InputError
from overproof.models.mode import in_mode
from overproof.statistics import Z_95

BATCHES = (1, 7, 64)
_TOLERANCE = 1e-4  # of the largest logit, where that is above 1: the order in which float32 sums are taken


@dataclass(frozen=True, kw_only=True)
class Parity:
    """At one batch size: the largest difference of logits, and how many examples get the same class of both."""

    batch: int
    difference: float
    agreeing: int


def same_logits(network: nn.Module, copy: nn.Module, x: Tensor, *, where: str) -> tuple[Parity, ...]:
    """Compare two networks on batches of 1, 7 and 64 images, drawn in turn from pixels ``x`` ``[N, C, H, W]``.

    Raises ``InputError`` where they differ by more than rounding: 1e-4 of the largest logit, or of 1.
    """
    differences = []
    first = 0
    with in_mode(network, training=False), torch.no_grad():
        for batch in BATCHES:
            part = x[torch.arange(first, first + batch, device=x.device) % len(x)]
            first += batch
            here, there = network(part), copy(part)
            if here.shape != there.shape:
                raise InputError(
                    f"{where}: it returns {list(there.shape)} where the network returns {list(here.shape)}"
                )
            difference = float((here - there).abs().amax())
            allowed = _TOLERANCE * max(1.0, float(here.abs().amax()))
            if not difference <= allowed:  # a NaN is no parity either
                raise InputError(
                    f"{where}: at batch {batch} its logits differ from the network's by {difference:.3g}, where "
                    f"rounding explains {allowed:.3g}; nothing was written"
                )
            agreeing = int((here.argmax(dim=1) == there.argmax(dim=1)).sum())
            differences.append(Parity(batch=batch, difference=difference, agreeing=agreeing))
    return tuple(differences)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What two networks did on the same N examples: how many passed with both, with one of them, with neither."""

    both: int
    only_before: int
    only_after: int
    neither: int

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> "Paired":
        """Count two columns of verdicts, bool ``[N]`` each."""
        return cls(
            both=int((before & after).sum()),
            only_before=int((before & ~after).sum()),
            only_after=int((~before & after).sum()),
            neither=int((~before & ~after).sum()),
        )

    @property
    def examples(self) -> int:
        """N."""
        return self.both + self.only_before + self.only_after + self.neither

    @property
    def difference(self) -> float:
        """The share that passes afterwards less the share that passed before, in [-1, 1]; NaN without examples."""
        return (self.only_after - self.only_before) / self.examples if self.examples else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of that difference (Agresti and Min 2005: half an example more in each of the counts)."""
        if not self.examples:
            return -1.0, 1.0
        gained, lost, n = self.only_after + 0.5, self.only_before + 0.5, self.examples + 2
        centre = (gained - lost) / n
        half = Z_95 * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
        return max(centre - half, -1.0), min(centre + half, 1.0)

    def plain(self) -> dict[str, Any]:
        """Return the counts, the difference and its interval as JSON values."""
        return {
            "both": self.both,
            "only_before": self.only_before,
            "only_after": self.only_after,
            "neither": self.neither,
            "difference": self.difference if self.examples else None,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
