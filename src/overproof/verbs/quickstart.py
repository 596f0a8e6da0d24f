"""``quickstart``: teachers, five ways to teach a small student and a proof, on real images inside the package."""

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
from overproof.verbs.certify import certify
from overproof.verbs.evaluate import evaluate
from overproof.verbs.findings import findings
from overproof.verbs.train import train

METHODS = ("natural", "at", "kd", "ard")
SEEDS = (0, 1, 2)
PROVED = 100  # images of the certificate


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
    certificate: dict[str, Any]
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

    @property
    def proof(self) -> str:
        """What is proved of the faithful student, in one sentence."""
        found = self.certificate
        gap = found["teacher"]["gap"]
        return (
            f"Proved for the faithful student within linf {found['threat']['eps']}: the right answer on "
            f"{100 * found['verified']['share']:.0f} % of {found['verified']['of']} test images, and an average "
            f"distance of its confidence to that of its teacher of at most {gap['proven']:.2f} "
            f"(an attack attains {gap['attacked']:.2f})."
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
            evaluations[name].append(_run(_recipe(name, *edits), out / f"{name}-{seed}", teacher=teacher))
    yield "teacher: certified training, so that something can be proved of it"
    provable = train(_recipe("ibp"), out / "ibp", resume=True, device="cpu")
    yield "student: faithful to it"
    faithful = train(_recipe("faithful", f"teachers.robust={out / 'ibp'}"), out / "faithful", resume=True, device="cpu")
    yield "proof: how far the two can be apart"
    _run(faithful.recipe(), faithful.folder, teacher=provable.folder)
    certificate = certify(faithful, teacher=provable.folder, bound="crown", examples=PROVED, resume=True, device="cpu")
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
    outcome = Outcome(lines=lines, certificate=certificate, report=report)
    folders = [teacher, *(out / f"{name}-{seed}" for name in METHODS for seed in SEEDS), faithful.folder]
    lead = f"{outcome.verdict} {outcome.proof}"
    html = page([findings(folder) for folder in folders], title="overproof quickstart", lead=lead)
    write_atomically(report, html.encode())
    yield outcome


def _recipe(name: str, *edits: str) -> Recipe:
    return read(find_recipe(f"digits/{name}"), edits)


def _run(recipe: Recipe, out: Path, *, teacher: Path | None = None) -> dict[str, Any]:
    run = train(recipe, out, resume=True, device="cpu")
    return evaluate(run, device="cpu", resume=True, reliability=False, teacher=teacher, save_adversarial=True)
