"""The words of `overproof evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.completion import SUITES, suites
from overproof.cli.console import leads, out_console, say, say_where_kept, stoppable, warn
from overproof.cli.options import SOURCE, ClassesByPosition, Data, Device, Layout, NormName, PrecisionName, TrustCode
from overproof.cli.progress import show_course


def evaluate(
    run: Annotated[str, typer.Argument(help=SOURCE)],
    attacks: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(SUITES)}, a YAML file, or attack names, comma-separated; default the recipe's.",
            autocompletion=suites,
        ),
    ] = "",
    eps: Annotated[str | None, typer.Option(help="Another radius than the recipe's, e.g. 8/255.")] = None,
    norm: Annotated[NormName | None, typer.Option(help="Another norm than the recipe's.")] = None,
    examples: Annotated[int | None, typer.Option(help="So many test images, classes in proportion; 0: all.")] = None,
    data: Data = None,
    teacher: Annotated[str | None, typer.Option(help="For transfer attacks and agreement; a run or a network.")] = None,
    original: Annotated[str | None, typer.Option(help="What FILE.onnx came from; default the run beside it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset and of the attacks.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Examples that go through the attacks together.")] = None,
    precision: Annotated[PrecisionName, typer.Option(help="Of the search; successes are confirmed in fp32.")] = (
        PrecisionName.auto
    ),
    reliability: Annotated[bool, typer.Option(help="Probe the network for hidden gradients.")] = True,
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Keep the misclassified images, and show them on the page.")
    ] = False,
    classes_by_position: ClassesByPosition = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Work out again what was asked before.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the results; default the run's own.")] = None,
    device: Device = "auto",
    layout: Layout = None,
    trust_code: TrustCode = False,
) -> None:
    """Attack a network on the test split; write evaluation.json and examples.jsonl.

    Example: overproof evaluate runs/mnist-ard --attacks standard --examples 1000
    """
    from overproof.commands.compare import write_report
    from overproof.commands.evaluate import iter_evaluate
    from overproof.runs.resolve import results_folder
    from overproof.runs.results import EVALUATION
    from overproof.runs.sources import with_layout

    run = with_layout(run, layout)
    course = iter_evaluate(
        run,
        attacks=tuple(name.strip() for name in attacks.split(",") if name.strip()),
        eps=eps,
        norm=None if norm is None else norm.value,
        examples=examples,
        data=data,
        teacher=teacher,
        original=original,
        seed=seed,
        batch=batch,
        precision=precision.value,
        reliability=reliability,
        save_adversarial=save_adversarial,
        classes_by_position=classes_by_position,
        resume=resume,
        overwrite=overwrite,
        out=out,
        device=device,
        trust_code=trust_code,
        announce=True,
    )
    with stoppable("finished blocks are kept, continue with --resume"):
        found = show_course(course, run, "pass", lambda item: (item.attack, f"robust {item.robust} %"))
    if leads():
        _print_evaluation(found)
        say_where_kept(EVALUATION, results_folder(run, out), found)
        say(f"report: {write_report(results_folder(run, out))}")


def _print_evaluation(found: "dict[str, Any]") -> None:
    from overproof.report.findings import Findings
    from overproof.report.table import tables
    from overproof.report.text import shown

    (table,) = tables([Findings(evaluation=found)])
    (row,) = table.rows
    after = " (each on the survivors)" if found["suite"]["survivors"] else ""
    grid = Grid(title=f"{row.name}; {table.title}; {found['suite']['name']}{after}", title_justify="left")
    grid.add_column("attack")
    for name in ("correct, % with 95 % interval", "forward passes", "backward passes", "seconds"):
        grid.add_column(name, justify="right")
    for column in table.columns:
        if column.group == "attacks" or column.key in ("clean", "worst"):
            trial = found["attacks"].get(column.label, {}) if column.group == "attacks" else {}
            passes = (f"{trial[key]:,}" if key in trial else "" for key in ("forward", "backward"))
            seconds = (trial or found[column.key])["seconds"]
            grid.add_row(Text(column.label), shown(row, column), *passes, f"{seconds:.1f}")
    out_console.print(grid)
    means = [f"{column.label} {shown(row, column)} %" for column in table.columns if column.group == "balanced"]
    if means:
        worst = min(found["per_class"], key=lambda one: one["worst"] / one["of"])
        least = f"{worst['class']!r} {worst['worst']} of {worst['of']} in the worst case"
        say(f"classes are unequal; mean over the classes: {', '.join(means)}; the weakest is {least}")
    if found["artefact"]:
        _print_artefact(found["artefact"])
    if found["suite"]["caution"]:
        say(f"{found['suite']['name']}: {found['suite']['caution']}.")
    if found["answers"]["level"] != "fine":
        warn(f"{found['run']}: {found['answers']['finding']}")
    if found["reliability"]:
        say(found["reliability"]["sentence"])


def _print_artefact(found: "dict[str, Any]") -> None:
    time = found["latency"]
    say(f"one image on one thread: median {time['median']:.3f} ms, p99 {time['p99']:.3f} ms")
    say(f"{found['bytes']:,} bytes, {_counted(found['multiply_adds'])} multiply-adds per image")
    for name in ("original", "teacher"):
        other = found[name]
        if other:
            ratio = ""
            if found["multiply_adds"] and other["multiply_adds"]:
                ratio = f", {other['multiply_adds'] / found['multiply_adds']:.1f} times as many"
            sizes = f"{other['bytes']:,} bytes, {_counted(other['multiply_adds'])} multiply-adds{ratio}"
            say(f"{name} {other['name']}: {sizes}")
    if found["original"]:
        _print_pairs(found["original"])


def _counted(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"


def _print_pairs(found: "dict[str, Any]") -> None:
    say(f"beside {found['name']}, the network it came from, example by example:")
    grid = Grid()
    grid.add_column("attack")
    for name in ("its correct, %", "lost by the file", "gained", "difference, points with 95 % interval"):
        grid.add_column(name, justify="right")
    for name, one in {"clean": found["clean"], **found["attacks"], "worst": found["worst"]}.items():
        paired = one["paired"]
        low, high = paired["interval"]
        points = f"{100 * paired['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        lost, gained = str(paired["only_before"]), str(paired["only_after"])
        grid.add_row(name, f"{100 * one['share']:.1f}", lost, gained, points)
    out_console.print(grid)
