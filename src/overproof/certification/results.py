"""What the cascade decided of many examples, and what it adds up to."""

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
from overproof.evaluation.state import ExampleResults, ExampleState
from overproof.statistics import Proportion


@dataclass(frozen=True, eq=False)
class Certificates(ExampleResults):
    """What was decided of N examples by a cascade."""

    plan: Plan

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts, ``[N]``."""
        return [VERDICTS[code] for code in self.state["verdict"].tolist()]

    @property
    def correct(self) -> Tensor:
        """Which clean images are classified correctly, bool ``[N]``."""
        return self.state["prediction"] == self.state["label"]

    @property
    def verified(self) -> Tensor:
        """Which examples are proved correct over their whole region, bool ``[N]``."""
        return self.state["verdict"] == VERIFIED

    @property
    def evidence(self) -> Proportion:
        """Certified accuracy."""
        return count_verified(self.plan, self.state)

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON values; ``wrong`` counts the falsified ones that no attack was needed for."""
        correct, verdict, stage = self.correct, self.state["verdict"], self.state["stage"]
        seconds = self.state["stage_seconds"].tolist()
        falsified = verdict == FALSIFIED
        robust = Proportion(
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
            "standing": robust.plain(),
            "verified": self.evidence.plain(),
            "counts": counts,
            "not_afforded": not_afforded(STAGES, self.state, self.plan.seconds),
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

    def columns(self) -> dict[str, list[Any]]:
        """Return what was decided of each example.

        ``by`` is the stage that decided, or was the last to try; ``lower`` the best proven bound of the smallest margin
        between the label and another class, None without one; ``attacked`` the smallest margin that was found.
        """
        return {
            "label": self.state["label"].tolist(),
            "prediction": self.state["prediction"].tolist(),
            "verdict": self.verdicts,
            "by": [STAGES[code] for code in self.state["stage"].tolist()],
            "lower": [value if isfinite(value) else None for value in self.state["lower"].tolist()],
            "attacked": self.state["margin"].tolist(),
            "seconds": [round(value, 6) for value in self.state["cost"].tolist()],
            "problem": [PROBLEMS[code] for code in self.state["problem"].tolist()],
        }


def count_verified(plan: Plan, state: ExampleState) -> Proportion:
    """Return how many examples of a block, or of several, are verified so far."""
    verdict = state["verdict"]
    return Proportion(
        claim=f"verified within {plan.threat.norm} {plan.threat.eps}",
        passed=int((verdict == VERIFIED).sum()),
        of=len(verdict),
        seconds=float(state["stage_seconds"].sum()),
    )
