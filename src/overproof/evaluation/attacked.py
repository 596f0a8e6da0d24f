"""Clean and attacked accuracy, one verdict per example."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Literal

import torch
from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.data.draws import seed_at
from overproof.data.images import ImageSet
from overproof.evaluation.evidence import Evidence
from overproof.functional import cross_entropy, dlr, margin
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode

Score = Callable[[Tensor, Tensor], Tensor]
_SCORES: Mapping[str, Score] = {
    "cross_entropy": cross_entropy,
    "margin": lambda logits, y: -margin(logits, y),
    "dlr": dlr,
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on every correctly classified example: a search, and the loss it climbs."""

    name: str
    attack: PGD = field(default_factory=lambda: PGD(steps=20))
    loss: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy"

    def __post_init__(self) -> None:
        if self.attack.ramp or self.attack.mode != "eval":
            raise ValueError(f"attack {self.name!r}: ramp and mode belong to training, an evaluation has neither")


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What happened to each of N examples: predictions ``[N]`` and, per trial, whether it survived, bool ``[N]``."""

    labels: Tensor
    predictions: Tensor
    survived: Mapping[str, Tensor]
    seconds: Mapping[str, float]

    @property
    def correct(self) -> Tensor:
        """Which examples are classified correctly without an attack, bool ``[N]``."""
        return self.predictions == self.labels

    @property
    def robust(self) -> Tensor:
        """Which examples survive every trial, bool ``[N]``."""
        alive = self.correct
        for survived in self.survived.values():
            alive = alive & survived
        return alive

    @property
    def clean(self) -> Evidence:
        """Accuracy without an attack."""
        return self._evidence("correct on clean images", self.correct, self.seconds["clean"])

    @property
    def attacks(self) -> dict[str, Evidence]:
        """Accuracy under each trial alone."""
        return {
            name: self._evidence(f"correct under {name}", survived, self.seconds[name])
            for name, survived in self.survived.items()
        }

    @property
    def worst(self) -> Evidence:
        """Accuracy under the worst of all trials, example by example."""
        return self._evidence("correct under every attack", self.robust, sum(self.seconds.values()))

    def broken_by(self) -> list[str | None]:
        """Return the first trial that broke each correctly classified example, ``[N]`` names or None."""
        names: list[str | None] = [None] * len(self.labels)
        for name, survived in reversed(list(self.survived.items())):
            for index in (self.correct & ~survived).nonzero().flatten().tolist():
                names[index] = name
        return names

    @staticmethod
    def _evidence(claim: str, passed: Tensor, seconds: float) -> Evidence:
        return Evidence(claim=claim, passed=int(passed.sum()), of=len(passed), seconds=seconds)


def judge(
    model: Classifier, images: ImageSet, trials: tuple[Trial, ...], *, batch: int = 500, seed: int = 0
) -> Verdicts:
    """Attack every correctly classified example with every trial and return the verdicts.

    The set is on the model's device. The model is in eval mode meanwhile. Restarts run on the examples still standing,
    so that a broken one costs nothing more.
    """
    with in_mode(model, training=False):
        started = monotonic()
        with torch.no_grad():
            predictions = torch.cat([model(x).argmax(dim=1) for x, _ in images.batches(batch)])
        correct = predictions == images.labels
        seconds = {"clean": monotonic() - started}
        survived = {}
        for trial in trials:
            started = monotonic()
            survived[trial.name] = _standing(model, images, correct, trial, batch, seed)
            seconds[trial.name] = monotonic() - started
    return Verdicts(
        labels=images.labels.cpu(),
        predictions=predictions.cpu(),
        survived={name: value.cpu() for name, value in survived.items()},
        seconds=seconds,
    )


def _standing(model: Classifier, images: ImageSet, correct: Tensor, trial: Trial, batch: int, seed: int) -> Tensor:
    """Return which examples are classified correctly before and after the trial, bool ``[N]``."""
    standing = correct.clone()
    once = replace(trial.attack, restarts=1)
    score = _SCORES[trial.loss]
    for restart in range(trial.attack.restarts):
        alive = standing.nonzero().flatten()
        for number, (chosen, x, y) in enumerate(_batches(images, alive, batch)):
            torch.manual_seed(seed_at(seed, "evaluate", trial.name, restart, number))
            adv = once(model, x, partial(_worse, model, score, y))
            with torch.no_grad():
                standing[chosen] = model(adv).argmax(dim=1) == y
    return standing


def _worse(model: Classifier, score: Score, y: Tensor, x: Tensor) -> Tensor:
    return score(model(x), y)


def _batches(images: ImageSet, indices: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        part = next(iter(images.at(chosen).batches(size)))
        yield chosen, part.x, part.y
