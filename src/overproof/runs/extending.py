"""A run that goes on for more epochs than it was started with: what may change, and what it means for the schedule."""

from collections.abc import Sequence
from dataclasses import dataclass

from overproof.recipe import Recipe
from overproof.training.averaging import SWA

_LENGTH = "training.epochs: "


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What is said of a run that was made longer: a ``line``, and ``warnings`` of what is not as it was."""

    line: str
    warnings: tuple[str, ...]


def is_longer(before: Recipe, after: Recipe, changed: Sequence[str]) -> bool:
    """Whether two recipes whose differences are ``changed`` are the same, but that the second has more epochs."""
    more = after.training.epochs > before.training.epochs
    return more and len(changed) == 1 and changed[0].startswith(_LENGTH)


def extension(before: Recipe, after: Recipe, epoch: float) -> Extension:
    """Return what it means that a run which stands at a fractional epoch goes on with the longer recipe."""
    old, new = before.training, after.training
    kind = new.schedule.kind
    line = f"the run is extended from {old.epochs:,} to {new.epochs:,} epochs"
    warnings = []
    rates = tuple(training.learning_rate(epoch) for training in (old, new))
    follows = any(old.learning_rate(at) != new.learning_rate(at) for at in (old.epochs / 2, old.epochs))
    if rates[0] != rates[1]:
        warnings.append(
            f"the learning rate jumps from {rates[0]:.3g} to {rates[1]:.3g}: the {kind} schedule follows the run's "
            f"length, now {new.epochs:,} epochs; a run of that length from the start would have had other rates before"
        )
    elif not follows:
        line += f"; the {kind} schedule is that of a run of this length from the start"
    rule = new.averaging
    if isinstance(rule, SWA) and rule.counts(epoch / old.epochs) and not rule.counts(epoch / new.epochs):
        warnings.append(
            f"the average begins again after epoch {rule.start * new.epochs:g}, the share {rule.start:g} of the new "
            "length"
        )
    return Extension(line=line, warnings=tuple(warnings))
