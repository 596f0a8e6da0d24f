"""One verdict per example, and what they add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from overproof.attacks.suites import Suite
from overproof.evaluation.state import ExampleResults, ExampleState
from overproof.functional import cross_entropy
from overproof.statistics import Proportion


@dataclass(frozen=True, eq=False)
class Verdicts(ExampleResults):
    """What happened to each of N examples under a suite."""

    suite: Suite

    @property
    def labels(self) -> Tensor:
        """The labels, int64 ``[N]``."""
        return self.state["label"]

    @property
    def predictions(self) -> Tensor:
        """The classes predicted on clean images, int64 ``[N]``."""
        return self.state["prediction"]

    @property
    def correct(self) -> Tensor:
        """Which examples are classified correctly without an attack, bool ``[N]``."""
        return self.predictions == self.labels

    @property
    def robust(self) -> Tensor:
        """Which examples survive every trial, bool ``[N]``."""
        return self.correct & self.state["survived"].all(dim=1)

    @cached_property
    def survived(self) -> dict[str, Tensor]:
        """Which correct examples survive each trial, bool ``[N]``; in a suite on survivors, it and those before it."""
        survived = self.state["survived"]
        if self.suite.survivors:
            survived = survived.cumprod(dim=1).bool()
        return {trial.name: self.correct & survived[:, column] for column, trial in enumerate(self.suite.attacks)}

    @property
    def seconds(self) -> dict[str, float]:
        """What the clean pass and each trial took."""
        return dict(zip(["clean", *self.survived], self.state["seconds"].tolist(), strict=True))

    @property
    def clean(self) -> Proportion:
        """Accuracy without an attack."""
        return self._evidence("correct on clean images", self.correct, self.seconds["clean"])

    @property
    def attacks(self) -> dict[str, Proportion]:
        """Accuracy under each trial alone, or after it in a suite on survivors."""
        word = "after" if self.suite.survivors else "under"
        return {
            name: self._evidence(f"correct {word} {name}", survived, self.seconds[name])
            for name, survived in self.survived.items()
        }

    @property
    def worst(self) -> Proportion:
        """Accuracy under the worst of all trials, example by example."""
        return self._evidence("correct under every attack", self.robust, sum(self.seconds.values()))

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return a record per class that has images: its name, how many, and how many are correct, clean and worst."""
        of, clean, worst = (
            torch.bincount(self.labels[mask], minlength=len(classes)).tolist()
            for mask in (torch.ones_like(self.correct), self.correct, self.robust)
        )
        return [
            {"class": name, "of": of[label], "clean": clean[label], "worst": worst[label]}
            for label, name in enumerate(classes)
            if of[label]
        ]

    def broken_by(self) -> list[str | None]:
        """Return the first trial that broke each correctly classified example, ``[N]`` names or None."""
        names = [trial.name for trial in self.suite.attacks]
        return [
            next((name for name, stood in zip(names, row, strict=True) if not stood), None)
            for row in self.state["survived"].tolist()
        ]

    def misclassified_in(self, family: str) -> Tensor | None:
        """Return which examples the trials of a family broke, bool ``[N]``; None where none of them was run."""
        columns = [column for column, trial in enumerate(self.suite.attacks) if trial.family == family]
        return ~self.state["survived"][:, columns].all(dim=1) if columns else None

    def survivors(self) -> dict[str, list[list[int]]]:
        """Return ``[passes, robust]`` rows of each trial: how many were robust after so many passes of its search.

        The first row, at 0 passes, are the examples that it was run on. Passes are those spent on an example;
        rows lie at most a quarter apart.
        """
        return {trial.name: self._survivors(column) for column, trial in enumerate(self.suite.attacks)}

    def _survivors(self, column: int) -> list[list[int]]:
        before = (
            self.state["survived"][:, :column].all(dim=1) if self.suite.survivors else torch.ones_like(self.correct)
        )
        loose = self.correct & before
        spent, stood = self.state["forward"][loose, column], self.state["survived"][loose, column]
        rows, passes = [[0, len(spent)]], 1
        while len(spent) and rows[-1][0] < int(spent.max()):
            passes = min(passes, int(spent.max()))
            rows.append([passes, len(spent) - int((~stood & (spent <= passes)).sum())])
            passes = max(passes + 1, passes * 5 // 4)
        return rows

    def columns(self) -> dict[str, list[Any]]:
        """Return what each example was taken for, which attack misclassified it, how near, and at what cost.

        ``loss`` is the cross-entropy and ``margin`` the label's logit less the largest other one, both at the worst
        point found, ``norm`` the length of the perturbation there; ``queries`` are the passes of attacks that see
        outputs only.
        """
        blind = [trial.family == "black_box" for trial in self.suite.attacks]
        forward, backward = self.state["forward"], self.state["backward"].sum(dim=1)
        return {
            "label": self.labels.tolist(),
            "prediction": self.predictions.tolist(),
            "broken_by": self.broken_by(),
            "loss": cross_entropy(self.state["attacked_logits"], self.labels).tolist(),
            "margin": self.state["margin"].tolist(),
            "norm": self.state["norm"].tolist(),
            "forward": forward[:, [not word for word in blind]].sum(dim=1).tolist(),
            "backward": backward.tolist(),
            "queries": forward[:, blind].sum(dim=1).tolist(),
        }

    @staticmethod
    def _evidence(claim: str, passed: Tensor, seconds: float) -> Proportion:
        return Proportion(claim=claim, passed=int(passed.sum()), of=len(passed), seconds=seconds)


def count_robust(state: ExampleState) -> Proportion:
    """Return how many examples of a block are correct and robust so far."""
    passed = (state["prediction"] == state["label"]) & state["survived"].all(dim=1)
    return Proportion(claim="correct under every attack", passed=int(passed.sum()), of=len(passed))
