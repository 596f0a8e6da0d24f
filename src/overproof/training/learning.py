"""Which parameters learn, and how fast: patterns of names, as a recipe's ``training`` node has them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from overproof.errors import InputError, nearest
from overproof.models.classifier import Classifier
from overproof.training.optimisation import Training

_OWN = "backbone."  # what a wrapper puts before a network's own names


def freeze_some(student: Classifier, training: Training) -> None:
    """Take the gradient from a student's parameters that ``training.freeze`` names.

    Raises ``InputError`` for a pattern that names nothing, and where nothing would be left to learn.
    """
    names = [name.removeprefix(_OWN) for name, _ in student.named_parameters()]
    for pattern in (*training.freeze, *training.learning_rates):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"training: no parameter of the student is called {pattern!r}{nearest(pattern, names[:200])}"
            )
    if not training.freeze:
        return
    for name, value in student.named_parameters():
        if any(fnmatchcase(name.removeprefix(_OWN), pattern) for pattern in training.freeze):
            value.requires_grad_(False)
    if not any(value.requires_grad for value in student.parameters()):
        raise InputError("training.freeze: nothing of the student is left to learn")


def parameter_groups(learners: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Return what learns in groups of one ``factor`` on the learning rate, in the order in which they first come."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in learners.named_parameters():
        if value.requires_grad:
            groups.setdefault(_factor(name, training.learning_rates.items()), []).append(value)
    return [{"params": values, "factor": factor} for factor, values in groups.items()]


def _factor(name: str, factors: Iterable[tuple[str, float]]) -> float:
    """Return the factor of the student's parameters; auxiliary models learn as the recipe says."""
    own = name.removeprefix(f"student.{_OWN}")
    return next((factor for pattern, factor in factors if own != name and fnmatchcase(own, pattern)), 1.0)
