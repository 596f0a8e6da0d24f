"""Whether a network answers more than one class, and whether it knows more than which class is the most frequent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from overproof.evaluation.check import Check, Level
from overproof.statistics import Proportion

NEARLY = 0.95
"""Share of all answers above which one class is nearly the only answer."""


def majority_share(labels: Tensor) -> float:
    """Return the share of the most frequent class among labels int64 ``[N]``: what one constant answer can get."""
    return float(labels.bincount().amax()) / len(labels)


def is_guessing(correct: Proportion, majority: float) -> bool:
    """Tell whether so many correct answers are no more than the ``majority`` share that a constant answer gets.

    Few examples say little: the interval must also leave out the middle between guessing and perfection.
    """
    low, high = correct.interval
    return low <= majority and high < (1 + majority) / 2


def is_constant(predictions: Tensor, labels: Tensor) -> bool:
    """Tell whether one class is nearly the only answer, int64 ``[N]``, and that is not simply right.

    On data of one class in twenty others a good network answers it nearly always as well: it is then right more often
    than a constant answer would be, beyond the 95 % interval.
    """
    correct = Proportion(claim="correct", passed=int((predictions == labels).sum()), of=len(labels))
    return majority_share(predictions) >= NEARLY and correct.interval[0] <= majority_share(labels)


def check_answers(predictions: Tensor, labels: Tensor, classes: Sequence[str]) -> Check:
    """Return the check of what a network answers on clean images, int64 ``[N]`` each; ``classes`` are their names.

    A constant or nearly constant answer fails: no attack can change what does not depend on the image, so its robust
    accuracy is its clean one and says nothing. Suspect is a clean accuracy of guessing.
    """
    correct = Proportion(claim="correct", passed=int((predictions == labels).sum()), of=len(labels))
    often, favourite = _most_frequent(predictions)
    present, majority = _most_frequent(labels)
    of = len(labels)
    level: Level = "fine"
    finding = f"its most frequent answer is {_name(classes, favourite)}, for {often} of {of} images"
    if is_constant(predictions, labels):
        level = "fail"
        whole = f"all {of}" if often == of else f"{often} of {of}"
        finding = f"it answers {_name(classes, favourite)} for {whole} images, whatever they show"
    elif is_guessing(correct, present / of):
        level = "suspect"
        finding = (
            f"its clean accuracy, {correct.share:.1%}, is no better than always answering {_name(classes, majority)} "
            f"({present / of:.1%})"
        )
    return Check(
        name="answers",
        level=level,
        finding=finding,
        figures={"most_frequent_answer": often / of, "majority": present / of, "clean": correct.share},
    )


def _most_frequent(labels: Tensor) -> tuple[int, int]:
    """Return how often the most frequent class occurs, and which it is."""
    count, place = torch.bincount(labels).max(dim=0)
    return int(count), int(place)


def _name(classes: Sequence[str], label: int) -> str:
    return repr(classes[label]) if label < len(classes) else f"class {label}"
