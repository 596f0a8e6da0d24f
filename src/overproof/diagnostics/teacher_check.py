"""Whether a network can teach: does it see what it expects, in the order it learnt, and know what it does not know?

What is checked here is what goes wrong with other people's checkpoints: pixels in another range, classes in another
order, confidence without merit, and robustness that is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overproof.diagnostics.transferability import Transferability
from overproof.errors import InputError
from overproof.evaluation.calibration import Calibration
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.statistics import Proportion

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
AS_IT_IS = "as it is"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CORRECT = "correct on clean images"
_CONFIDENT = 0.7  # mean confidence in wrong answers from which on a student learns errors as if they were facts
_CLEARLY = 0.05  # by how much another reading must beat the one in use, besides having an interval of its own


@dataclass(frozen=True, kw_only=True)
class PixelReading:
    """A way to hand pixels to the network, ``(pixel - mean) / std`` per channel, and how often it was right then."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    correct: Proportion


def readings(model: Classifier, x: Tensor, y: Tensor) -> tuple[PixelReading, ...]:
    """Return the network's accuracy on pixels ``[N, C, H, W]`` in [0, 1] under each usual normalisation.

    The first is the one in use. The others are [0, 1] as it is, 0..255, [-1, 1], these images' own mean and std, and
    ImageNet's where there are three channels.
    """
    channels = x.shape[1]
    own = tuple(x.mean(dim=(0, 2, 3)).tolist()), tuple(x.std(dim=(0, 2, 3)).clamp_min(1e-3).tolist())
    usual: dict[str, Normalisation] = {
        AS_IT_IS: (tuple(model.mean.flatten().tolist()), tuple(model.std.flatten().tolist())),
        "[0, 1]": ((0.0,) * channels, (1.0,) * channels),
        "0..255": ((0.0,) * channels, (1 / 255,) * channels),
        "[-1, 1]": ((0.5,) * channels, (0.5,) * channels),
        "mean 0, std 1 per channel": own,
    }
    if channels == 3:
        usual["ImageNet's mean and std"] = _IMAGENET
    readings = []
    with in_mode(model, training=False), torch.no_grad():
        for name, (mean, std) in usual.items():
            shift, scale = (x.new_tensor(part).reshape(1, channels, 1, 1) for part in (mean, std))
            right = 0
            for part, labels in zip(torch.split(x, 256), torch.split(y, 256), strict=True):
                right += int((model.backbone((part - shift) / scale).argmax(dim=1) == labels).sum())
            evidence = Proportion(claim=_CORRECT, passed=right, of=len(y))
            readings.append(PixelReading(name=name, mean=mean, std=std, correct=evidence))
    return tuple(readings)


def better_reading(all_readings: Sequence[PixelReading]) -> PixelReading | None:
    """Return the reading that is clearly better than the first, the one in use; None where there is none."""
    best = max(all_readings, key=lambda reading: reading.correct.share)
    return best if _clearly_above(best.correct, all_readings[0].correct) else None


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of classes under which most answers are right: label ``k`` is the network's class ``order[k]``."""

    order: tuple[int, ...]
    correct: Proportion

    @property
    def kept(self) -> bool:
        """Whether it is the data's own order."""
        return self.order == tuple(range(len(self.order)))


def class_order(logits: Tensor, labels: Tensor) -> Order:
    """Return the best one-to-one order of classes for logits ``[N, K]`` and labels ``[N]``.

    A linear assignment on the confusion matrix (Kuhn 1955); among equally good ones the data's own wins.
    """
    from scipy.optimize import linear_sum_assignment

    classes = logits.shape[1]
    counts = torch.zeros(classes, classes).index_put_(
        (labels.cpu(), logits.argmax(dim=1).cpu()), torch.ones(len(labels)), accumulate=True
    )
    # Less than one answer in all, so that it only decides between ties.
    preferred = counts + torch.eye(classes) / (2 * classes)
    _, chosen = linear_sum_assignment(preferred.numpy(), maximize=True)
    passed = int(counts[torch.arange(classes), torch.from_numpy(np.asarray(chosen))].sum())
    return Order(
        order=tuple(int(each) for each in chosen),
        correct=Proportion(claim="correct in the best order of classes", passed=passed, of=len(labels)),
    )


def confidence_in_errors(logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean largest probability over the wrong answers, in [0, 1]; None where every answer is right."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    wrong = predicted != labels
    return float(confidence[wrong].mean()) if bool(wrong.any()) else None


@dataclass(frozen=True, kw_only=True)
class Student:
    """What the student attains without this teacher, on the same images and under the same attacks."""

    name: str
    clean: Proportion
    robust: Proportion


@dataclass(frozen=True, kw_only=True)
class TeacherCheck:
    """All that was found about a teacher; ``verdict`` is ``fit``, ``doubtful`` or ``unfit``, ``sentence`` says why.

    ``errors_clean`` and ``errors_attacked`` are mean confidences in wrong answers (None: no wrong answer).
    ``transferability`` takes a student; it is told, and decides nothing (see docs: fit to teach).
    """

    clean: Proportion
    robust: Proportion
    readings: tuple[PixelReading, ...]
    order: Order
    calibration: Calibration
    errors_clean: float | None
    errors_attacked: float | None
    student: Student | None = None
    transferability: Transferability | None = None

    def __post_init__(self) -> None:
        if not self.clean.of:
            raise InputError("a teacher is checked on at least one image")

    @property
    def verdict(self) -> str:
        """One word: whether to learn from it."""
        return self._judgement()[0]

    @property
    def sentence(self) -> str:
        """One sentence: what decided."""
        word, reason = self._judgement()
        return f"{word}: {reason}"

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        student = self.student
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "clean": self.clean.plain(),
            "robust": self.robust.plain(),
            "readings": [
                {"name": one.name, "mean": list(one.mean), "std": list(one.std), "correct": one.correct.plain()}
                for one in self.readings
            ],
            "class_order": {"order": list(self.order.order), "correct": self.order.correct.plain()},
            "calibration": self.calibration.plain(),
            "confidence_in_errors": {"clean": self.errors_clean, "attacked": self.errors_attacked},
            "student": student
            and {"name": student.name, "clean": student.clean.plain(), "robust": student.robust.plain()},
            "transferability": self.transferability and self.transferability.plain(),
        }

    def _judgement(self) -> tuple[str, str]:
        chance = 1 / len(self.order.order)
        reading = better_reading(self.readings)
        if reading is not None:
            return "unfit", (
                f"it wants pixels as {reading.name} ({_percent(reading.correct)} correct) and gets them "
                f"{self._in_use()} ({_percent(self.clean)}); import it again with {_options(reading)}"
            )
        if not self.order.kept and _clearly_above(self.order.correct, self.clean):
            return "unfit", (
                f"its classes are in another order: {_percent(self.order.correct)} correct with label k as its class "
                f"{_format_order(self.order.order)}, {_percent(self.clean)} as they are"
            )
        if self.clean.interval[0] <= chance:
            return "unfit", f"it is no better than chance on clean images ({_percent(self.clean)})"
        if self.robust.share <= chance:
            return "doubtful", (
                f"it withstands nothing ({_percent(self.robust)} under attack): a teacher of clean answers alone, for "
                f"roles such as 'clean'; what is distilled from it on clean images alone withstands nothing either"
            )
        student = self.student
        if student is not None and self.robust.share <= student.robust.share:
            return "doubtful", (
                f"it is not more robust ({_percent(self.robust)}) than {student.name} is without a teacher "
                f"({_percent(student.robust)})"
            )
        if self.errors_attacked is not None and self.errors_attacked >= _CONFIDENT:
            return "doubtful", (
                f"it is confident in what it gets wrong under attack (mean {self.errors_attacked:.2f}); a method that "
                f"asks it about attacked images would teach that; prefer one that asks about clean ones, or a "
                f"temperature above 1"
            )
        beside = "" if student is None else f", {student.name} alone {_percent(student.robust)}"
        return "fit", f"{_percent(self.clean)} correct on clean images, {_percent(self.robust)} under attack{beside}"

    def _in_use(self) -> str:
        first = self.readings[0]
        plainly = not any(first.mean) and all(value == 1 for value in first.std)
        return "in [0, 1]" if plainly else f"with mean {_numbers(first.mean)} and std {_numbers(first.std)}"


def _clearly_above(one: Proportion, other: Proportion) -> bool:
    return one.interval[0] > other.interval[1] and one.share - other.share > _CLEARLY


def _options(reading: PixelReading) -> str:
    if not any(reading.mean) and all(value == 1 for value in reading.std):
        return "no --mean and --std"
    return f"--mean {_numbers(reading.mean)} --std {_numbers(reading.std)}"


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _format_order(order: Sequence[int]) -> str:
    moved: Mapping[int, int] = {label: place for label, place in enumerate(order) if label != place}
    some = [f"{label} -> {place}" for label, place in list(moved.items())[:4]]
    return ", ".join(some) + (", ..." if len(moved) > len(some) else "")


def _percent(evidence: Proportion) -> str:
    return f"{100 * evidence.share:.1f} %"
