"""``quickstart``: a robust teacher and four ways to teach a small student, on real images inside the package."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.evaluation.evidence import Spread
from overproof.files import write_atomically
from overproof.recipe import Recipe, read
from overproof.report.page import page
from overproof.shipped import find_recipe
from overproof.verbs.evaluate import evaluate
from overproof.verbs.train import train

METHODS = ("natural", "at", "kd", "ard")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method's clean and worst-case accuracy over the seeds."""

    name: str
    parameters: int
    clean: Spread
    robust: Spread


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the quickstart found, and whether distillation beat adversarial training of the same network on average."""

    lines: tuple[Line, ...]
    report: Path

    @property
    def verdict(self) -> str:
        """The comparison in one honest sentence: a difference of means, and whether the seeds' spread exceeds it."""
        robust = {line.name: line.robust for line in self.lines}
        gain = 100 * (robust["ard"].mean - robust["at"].mean)
        spread = 100 * math.hypot(robust["ard"].half_width, robust["at"].half_width)
        doubt = "; the spread of the seeds is larger than that" if abs(gain) <= spread else ""
        if gain > 0:
            return (
                f"Distilled from the robust teacher, the small student withstands {gain:.1f} points more than the same "
                f"network trained adversarially on its own (mean of {len(SEEDS)} seeds{doubt})."
            )
        return (
            f"Here distillation did not help: {abs(gain):.1f} points less robust accuracy than adversarial training of "
            f"the same network (mean of {len(SEEDS)} seeds{doubt})."
        )


def quickstart(out: Path) -> Outcome:
    """Train, attack and compare; write the runs and ``report.html`` under ``out``; return the table and the verdict."""
    *_, outcome = quickstart_steps(out)
    assert isinstance(outcome, Outcome)
    return outcome


def quickstart_steps(out: Path) -> Iterator[str | Outcome]:
    """Do the same step by step: yield a sentence before each step, and the outcome last. Finished runs are kept."""
    teacher = out / "teacher"
    yield "teacher: adversarial training of a larger network"
    evaluations = {"teacher": [_run(_recipe("teacher"), teacher)]}
    for name in METHODS:
        evaluations[name] = []
        for seed in SEEDS:
            yield f"student: {name}, seed {seed}"
            edits = [f"seed={seed}", f"name=digits-{name}-{seed}"]
            if name in ("kd", "ard"):
                edits.append(f"teachers.robust={teacher}")
            evaluations[name].append(_run(_recipe(name, *edits), out / f"{name}-{seed}"))
    lines = tuple(
        Line(
            name=name,
            parameters=found[0]["parameters"],
            clean=Spread.of([one["clean"]["share"] for one in found]),
            robust=Spread.of([one["worst"]["share"] for one in found]),
        )
        for name, found in evaluations.items()
    )
    report = out / "report.html"
    outcome = Outcome(lines=lines, report=report)
    everything = [one for found in evaluations.values() for one in found]
    write_atomically(report, page(everything, title="overproof quickstart", lead=outcome.verdict).encode())
    yield outcome


def _recipe(name: str, *edits: str) -> Recipe:
    return read(find_recipe(f"digits/{name}"), edits)


def _run(recipe: Recipe, out: Path) -> dict[str, Any]:
    return evaluate(train(recipe, out, resume=True, device="cpu"), device="cpu", resume=True, reliability=False)
