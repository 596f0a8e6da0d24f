"""``quickstart``: teachers, five ways to teach a small student and a proof, on real images inside the package."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.files import write_atomically
from overproof.recipe import Recipe, dump, parse, read
from overproof.report.page import page
from overproof.runs.reader import findings
from overproof.runs.workers import Task, performing
from overproof.shipped import find_recipe
from overproof.statistics import Spread

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
        certificate = self.certificate
        gap = certificate["teacher"]["gap"]
        return (
            f"Proved for the faithful student within linf {certificate['threat']['eps']}: the right answer on "
            f"{100 * certificate['verified']['share']:.0f} % of {certificate['verified']['of']} test images, and an "
            f"average distance of its confidence to that of its teacher of at most {gap['proven']:.2f} "
            f"(an attack attains {gap['attacked']:.2f})."
        )


def quickstart(out: Path | str, *, jobs: int | None = None) -> Outcome:
    """Train, attack and compare; write the runs and ``report.html`` under ``out``; return the table and the verdict.

    ``jobs`` runs are trained at a time, by a process of one thread each; None is one per core. The runs are the same.
    """
    *_, outcome = quickstart_steps(Path(out), jobs=jobs)
    assert isinstance(outcome, Outcome)
    return outcome


def quickstart_steps(out: Path, *, jobs: int | None = None) -> Iterator[str | Outcome]:
    """Do the same step by step: yield a sentence as each step begins, and the outcome last. Finished runs are kept."""
    results: dict[str, Any] = {}
    for heard in performing(_tasks(out), "overproof.commands.quickstart:do_task", jobs=jobs):
        if heard.ended:
            results[heard.task.name] = heard.result
        elif heard.task.sentence:
            yield heard.task.sentence
    evaluations = {"teacher": [results["evaluate teacher"]]}
    for name in METHODS:
        evaluations[name] = [results[f"evaluate {name}-{seed}"] for seed in SEEDS]
    certificate = results["certify"]
    lines = tuple(
        Line(
            name=name,
            parameters=results[0]["parameters"],
            clean=Spread.of([one["clean"]["share"] for one in results]),
            robust=Spread.of([one["worst"]["share"] for one in results]),
        )
        for name, results in evaluations.items()
    )
    report = out / "report.html"
    outcome = Outcome(lines=lines, certificate=certificate, report=report)
    names = ["teacher", *(f"{name}-{seed}" for name in METHODS for seed in SEEDS), "faithful"]
    lead = f"{outcome.verdict} {outcome.proof}"
    html = page([findings(out / name) for name in names], title="overproof quickstart", lead=lead)
    write_atomically(report, html.encode())
    yield outcome


def _recipe(name: str, *edits: str) -> Recipe:
    return read(find_recipe(f"digits/{name}"), edits)


def _tasks(out: Path) -> list[Task]:
    """Return all that is trained, evaluated and proved: chains of what waits for each other begin first."""
    robust, provable = f"teachers.robust={out / 'teacher'}", f"teachers.robust={out / 'ibp'}"
    words = {"what": "certify", "folder": str(out / "faithful"), "teacher": str(out / "ibp"), "examples": PROVED}
    proof = "proof: how far the two can be apart"
    tasks = [
        *_run(out, "teacher", _recipe("teacher"), "teacher: adversarial training of a larger network"),
        _training(out, "ibp", _recipe("ibp"), "teacher: certified training, so that something can be proved of it"),
        *_run(out, "faithful", _recipe("faithful", provable), "student: faithful to it", "ibp", ("train ibp",)),
        Task(name="certify", words=words, after=("evaluate faithful",), sentence=proof),
    ]
    for name in METHODS:
        needs, edits = (("train teacher",), [robust]) if name in ("kd", "ard") else ((), [])
        for seed in SEEDS:
            recipe = _recipe(name, f"seed={seed}", f"name=digits-{name}-{seed}", *edits)
            tasks += _run(out, f"{name}-{seed}", recipe, f"student: {name}, seed {seed}", "teacher", needs)
    return tasks


def _training(out: Path, name: str, recipe: Recipe, sentence: str, after: tuple[str, ...] = ()) -> Task:
    words = {"what": "train", "folder": str(out / name), "recipe": dump(recipe)}
    return Task(name=f"train {name}", words=words, after=after, sentence=sentence)


def _run(
    out: Path, name: str, recipe: Recipe, sentence: str, teacher: str | None = None, after: tuple[str, ...] = ()
) -> list[Task]:
    """Return the training of a run and its evaluation, which may look at a teacher."""
    words = {"what": "evaluate", "folder": str(out / name), "teacher": str(out / teacher) if teacher else None}
    needs = (f"train {name}", *((f"train {teacher}",) if teacher else ()))
    return [
        _training(out, name, recipe, sentence, after),
        Task(name=f"evaluate {name}", words=words, after=needs),
    ]


def do_task(
    *, what: str, folder: str, recipe: str = "", teacher: str | None = None, examples: int = 0
) -> dict[str, Any] | None:
    """Do one of the tasks, in a process of its own."""
    if what == "train":
        train(parse(recipe), folder, resume=True, device="cpu")
        return None
    if what == "evaluate":
        return evaluate(folder, device="cpu", resume=True, reliability=False, teacher=teacher, save_adversarial=True)
    return certify(folder, teacher=teacher, bound="crown", examples=examples, resume=True, device="cpu")
