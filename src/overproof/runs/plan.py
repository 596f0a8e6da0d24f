"""What a training will take, measured on its own images and networks before it is begun."""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from overproof.data.images import ImageSet
from overproof.evaluation.attacked import judge
from overproof.methods.method import Method
from overproof.models.mode import in_mode
from overproof.recipe import Recipe
from overproof.runs.energy import Energy
from overproof.runs.trainer import Stage
from overproof.training.cost import Passes, passes, passes_of_epoch
from overproof.training.loop import Loop, NotFiniteError

_KEPT = 2  # checkpoints, while the next is written
_WEIGHTS = 2  # of the best epoch and of the last
_VALIDATED = 64  # images that a validation is measured on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a run: measured seconds, and what they come to.

    ``start_up`` is what the first second took longer than others, ``batch`` the seconds ``(a, b)`` of a batch: ``a``,
    and ``b`` for every pass of the student. ``validation`` is of one validation in which every image is attacked, so it
    is too much for a network that errs. ``memory`` is the process's peak, or the device's. ``watts`` is None where the
    machine does not tell.
    """

    epochs: int
    batches: int
    validations: int
    start_up: float
    batch: tuple[float, float]
    validation: float
    weighted: float
    """The student's passes in all batches of the run."""
    passes: Mapping[str, Passes]
    memory: int
    disk: int
    watts: float | None

    @property
    def seconds(self) -> float:
        """The whole run, validations included."""
        return self.start_up + self.seconds_of_batches + self.validation * self.validations

    @property
    def joules(self) -> float | None:
        """The whole run's energy at the power of the measurement; None where the machine does not tell."""
        return None if self.watts is None else self.watts * self.seconds

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "seconds": self.seconds,
            "epochs": self.epochs,
            "batches": self.batches,
            "seconds_per_batch": self.seconds_of_batches / max(1, self.epochs * self.batches),
            "seconds_per_validation": self.validation,
            "validations": self.validations,
            "passes": {name: {"forward": one.forward, "backward": one.backward} for name, one in self.passes.items()},
            "memory": self.memory,
            "disk": self.disk,
            "joules": self.joules,
        }

    @property
    def seconds_of_batches(self) -> float:
        """All batches, without validations."""
        return self.batch[0] * self.epochs * self.batches + self.batch[1] * self.weighted

    def at(self, recipe: Recipe) -> "Plan":
        """Return the plan of a recipe that differs in its length and growing searches alone; nothing is measured."""
        epochs = recipe.training.epochs
        return replace(
            self,
            epochs=epochs,
            validations=_validations(recipe),
            weighted=_weighted(recipe.method, epochs, self.batches),
            passes=_passes(recipe.method, epochs, self.batches),
        )


def measure(recipe: Recipe, stage: Stage, seconds: float = 20.0) -> Plan:
    """Return the plan of a recipe whose ``stage`` is set; about so many seconds are spent on it.

    Half of them train at the beginning of the run and half at its end, where searches have grown. The networks of the
    stage are changed, so a run needs another one.
    """
    loop, began = stage.loop, monotonic()
    first: list[_Sample] = []
    samples: list[_Sample] = []
    energy = Energy(loop.device)
    if loop.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loop.device)
    with energy:
        validation = _validation_seconds(recipe, stage)
        last = recipe.training.epochs - 1
        for epoch in dict.fromkeys((0, last)):
            seen = list(_samples(loop, epoch, seconds / (2 if last else 1)))
            first += seen[:1]
            samples += seen[1:] or seen
    spent = monotonic() - began
    a, b = _fit(samples)
    late = (one.seconds - a * one.batches - b * one.weighted for one in first)
    batches, epochs = len(loop.loader), recipe.training.epochs
    return Plan(
        epochs=epochs,
        batches=batches,
        validations=_validations(recipe),
        start_up=max(0.0, *late) if first else 0.0,
        batch=(a, b),
        validation=validation,
        weighted=_weighted(recipe.method, epochs, batches),
        passes=_passes(recipe.method, epochs, batches),
        memory=_peak(loop.device),
        disk=_WEIGHTS * _bytes(loop.network().state_dict()) + _KEPT * _bytes(loop.state()),
        watts=None if energy.joules is None else energy.joules / spent,
    )


class _Sample(NamedTuple):
    """Batches that were learnt from one after the other: how many, the student's passes in them, the seconds."""

    batches: int
    weighted: float
    seconds: float


def _samples(loop: Loop, epoch: int, seconds: float) -> Iterator[_Sample]:
    """Train from an epoch on for so long, at most to the end; yield what was seen between two looks."""
    loop.epoch, loop.batch = epoch, 0
    batches, epochs = len(loop.loader), loop.training.epochs
    began = looked = monotonic()
    at = epoch * batches
    try:
        for progress in loop.run():
            now, place = monotonic(), progress.epoch * batches + progress.batch
            weighted = sum(_student(loop.method, batch, epochs * batches) for batch in range(at, place))
            yield _Sample(place - at, weighted, now - looked)
            if now - began >= seconds:
                return
            at, looked = place, monotonic()
    except NotFiniteError:  # the last epoch's steps are not made for weights of the first
        return


def _fit(samples: list[_Sample]) -> tuple[float, float]:
    """Return ``(a, b)`` of ``seconds = a batches + b passes``; all of it is ``a`` where passes never change.

    Least squares without negative parts, so that neither more batches nor more passes make a run shorter.
    """
    total = _Sample(*(sum(part) for part in zip(*samples, strict=True))) if samples else _Sample(1, 0.0, 0.0)
    if len({round(one.weighted / one.batches, 6) for one in samples}) < 2:
        return total.seconds / total.batches, 0.0
    from scipy.optimize import nnls

    rows = np.array([[one.batches, one.weighted] for one in samples], dtype=float)
    scale = np.sqrt(rows[:, :1])  # noise grows with the square root of the batches
    (a, b), _ = nnls(rows / scale, np.array([one.seconds for one in samples]) / scale[:, 0])
    return float(a), float(b)


def _student(method: Method, batch: int, batches: int) -> float:
    """Return the student's passes in a batch of the run, counted from 0."""
    return _passes_at(method, 100 * batch // max(1, batches - 1))


def _passes_at(method: Method, percent: int) -> float:
    try:
        one = passes(method, min(percent, 100))["student"]
    except Exception:  # a method of other people's for which the toy is too small: every batch counts the same
        return 1.0
    return float(one.forward + one.backward)


def _weighted(method: Method, epochs: int, batches: int) -> float:
    count = epochs * batches
    percents = Counter(100 * batch // max(1, count - 1) for batch in range(count))
    return sum(times * _passes_at(method, percent) for percent, times in percents.items())


def _passes(method: Method, epochs: int, batches: int) -> dict[str, Passes]:
    """Return the passes of every network in the whole run."""
    total: dict[str, Passes] = {}
    for epoch in range(epochs):
        for name, one in passes_of_epoch(method, epoch, epochs, batches).items():
            before = total.get(name, Passes(forward=0, backward=0))
            total[name] = Passes(forward=before.forward + one.forward, backward=before.backward + one.backward)
    return total


def _validations(recipe: Recipe) -> int:
    return math.ceil(recipe.training.epochs / recipe.selection.every)


def _validation_seconds(recipe: Recipe, stage: Stage) -> float:
    """Return the seconds of a validation, from a few images that count as correctly classified."""
    network, images = stage.loop.network(), stage.held_out
    images = images.at(torch.arange(min(_VALIDATED, len(images))))
    with in_mode(network, training=False), torch.no_grad():
        answers = torch.cat([network(part.x).argmax(dim=1) for part in images.batches(_VALIDATED)])
    began = monotonic()
    judge(network, _labelled(images, answers), (recipe.selection.trial,), seed=recipe.seed)
    return (monotonic() - began) / len(images) * len(stage.held_out)


def _labelled(images: ImageSet, labels: Tensor) -> ImageSet:
    return ImageSet(name=images.name, images=images.images, labels=labels, classes=images.classes)


def _bytes(state: object) -> int:
    """Return the bytes of all tensors in nested mappings and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_bytes, state))
    return 0


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
