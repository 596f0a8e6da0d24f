"""Robust overfitting in one sentence: the best validated epoch against the last (Rice et al. 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

from overproof.statistics import Proportion, difference_interval

Record = Mapping[str, Any]


def overfitting(metrics: Sequence[Record]) -> str:
    """Return one line on a run's ``metrics`` (the records of its epochs); the selected epoch is the best one.

    What the last epoch lost stands with its interval where the held-out images were counted (from 0.9 on).
    """
    records = [record["validation"] for record in metrics if record.get("validation")]
    if not records:
        return "no epoch was validated"
    best, last = max(records, key=_rank), records[-1]
    of = best.get("examples", 0)
    images = f"{of:,} held-out images" if of else "held-out images"
    line = (
        f"best epoch {best['epoch']}: {100 * best['robust']:.1f} % robust on {images}; "
        f"last epoch {last['epoch']}: {100 * last['robust']:.1f} %; {_drop(best, last, of)}"
    )
    return f"{line}; the selected network answers one class for nearly all images" if best.get("constant") else line


def _rank(record: Record) -> tuple[bool, float, float, int]:
    return not record.get("constant", False), record["robust"], record["clean"], -record["epoch"]


def _drop(best: Record, last: Record, of: int) -> str:
    drop = 100 * (best["robust"] - last["robust"])
    if drop < 1:
        return "no robust overfitting to speak of"
    costs = f"robust overfitting costs {drop:.1f} points"
    if not of:
        return costs
    before, after = (Proportion(claim="robust", passed=round(of * one["robust"]), of=of) for one in (best, last))
    low, high = (100 * end for end in difference_interval(before, after))
    return f"{costs} [{low:.1f}, {high:.1f}]" + (", which so few images cannot tell from noise" if low <= 0 else "")
