"""What the cascade decided of many examples, and what it adds up to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from torch import Tensor

from overproof.certification.cascade import (
    ERROR,
    FALSIFIED,
    PROBLEMS,
    STAGES,
    UNKNOWN,
    VERDICTS,
    VERIFIED,
    Plan,
    Verdict,
    not_afforded,
)
from overproof.evaluation.state import ExampleState, joined
from overproof.statistics import Proportion

_RECORD = ("index", "label", "prediction", "verdict", "by", "lower", "attacked", "seconds", "problem")


@dataclass(frozen=True, eq=False)
class Certificates:
    """What was decided of N examples: the marks of the blocks, one after the other, on the CPU."""

    plan: Plan
    marks: ExampleState

    @classmethod
    def of(cls, plan: Plan, blocks: Iterable[ExampleState]) -> "Certificates":
        """Join the marks of blocks, in the order given; at least one."""
        return cls(plan, joined(blocks))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts, ``[N]``."""
        return [VERDICTS[code] for code in self.marks["verdict"].tolist()]

    @property
    def correct(self) -> Tensor:
        """Which clean images are classified correctly, bool ``[N]``."""
        return self.marks["prediction"] == self.marks["label"]

    @property
    def verified(self) -> Tensor:
        """Which examples are proved correct over their whole region, bool ``[N]``."""
        return self.marks["verdict"] == VERIFIED

    @property
    def evidence(self) -> Proportion:
        """Certified accuracy."""
        return verified(self.plan, self.marks)

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON values; ``wrong`` counts the falsified ones that no attack was needed for."""
        correct, verdict, stage = self.correct, self.marks["verdict"], self.marks["stage"]
        seconds = self.marks["stage_seconds"].tolist()
        falsified = verdict == FALSIFIED
        standing = Proportion(
            claim="correct and without a counter-example",
            passed=int((correct & ~falsified).sum()),
            of=len(verdict),
            seconds=seconds[0] + seconds[1],
        )
        counts = {
            "verified": int(self.verified.sum()),
            "falsified": int((falsified & correct).sum()),
            "wrong": int((falsified & ~correct).sum()),
            "unknown": int((verdict == UNKNOWN).sum()),
            "error": int((verdict == ERROR).sum()),
        }
        clean = Proportion(claim="correct on clean images", passed=int(correct.sum()), of=len(verdict))
        return {
            "clean": clean.plain(),
            "standing": standing.plain(),
            "verified": self.evidence.plain(),
            "counts": counts,
            "not_afforded": not_afforded(STAGES, self.marks, self.plan.seconds),
            "stages": {
                name: {
                    "verified": int((self.verified & (stage == number)).sum()),
                    "falsified": int((falsified & (stage == number)).sum()),
                    "seconds": round(seconds[number], 3),
                }
                for number, name in enumerate(STAGES)
                if number <= self.plan.last
            },
        }

    def lines(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return one record of JSON values per example.

        ``by`` is the stage that decided, or was the last to try; ``lower`` the best proven bound of the smallest margin
        between the label and another class, None without one; ``attacked`` the smallest margin that was found.
        """
        columns = zip(
            indices,
            self.marks["label"].tolist(),
            self.marks["prediction"].tolist(),
            self.verdicts,
            [STAGES[code] for code in self.marks["stage"].tolist()],
            [value if isfinite(value) else None for value in self.marks["lower"].tolist()],
            self.marks["margin"].tolist(),
            [round(value, 6) for value in self.marks["cost"].tolist()],
            [PROBLEMS[code] for code in self.marks["problem"].tolist()],
            strict=True,
        )
        return [dict(zip(_RECORD, row, strict=True)) for row in columns]


def verified(plan: Plan, marks: ExampleState) -> Proportion:
    """Return how many examples of a block, or of several, are verified so far."""
    verdict = marks["verdict"]
    return Proportion(
        claim=f"verified within {plan.threat.norm} {plan.threat.eps}",
        passed=int((verdict == VERIFIED).sum()),
        of=len(verdict),
        seconds=float(marks["stage_seconds"].sum()),
    )
