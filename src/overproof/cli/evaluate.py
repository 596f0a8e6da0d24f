"""The words of `overproof evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.completion import SUITES, suites
from overproof.cli.console import leads, out_console, say, say_where_kept, stoppable, warn
from overproof.cli.options import SOURCE, ClassesByPosition, Data, Device, Layout, NormName, PrecisionName, TrustCode
from overproof.cli.progress import show_events


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
    events = iter_evaluate(
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
        result = show_events(events, run, "pass", lambda item: (item.attack, f"robust {item.robust} %"))
    if leads():
        _print_evaluation(result)
        say_where_kept(EVALUATION, results_folder(run, out), result)
        say(f"report: {write_report(results_folder(run, out))}")


def _print_evaluation(result: "dict[str, Any]") -> None:
    from overproof.report.findings import Findings
    from overproof.report.table import tables
    from overproof.report.text import format_cell

    (table,) = tables([Findings(evaluation=result)])
    (row,) = table.rows
    after = " (each on the survivors)" if result["suite"]["survivors"] else ""
    grid = Grid(title=f"{row.name}; {table.title}; {result['suite']['name']}{after}", title_justify="left")
    grid.add_column("attack")
    for name in ("correct, % with 95 % interval", "forward passes", "backward passes", "seconds"):
        grid.add_column(name, justify="right")
    for column in table.columns:
        if column.group == "attacks" or column.key in ("clean", "worst"):
            trial = result["attacks"].get(column.label, {}) if column.group == "attacks" else {}
            passes = (f"{trial[key]:,}" if key in trial else "" for key in ("forward", "backward"))
            seconds = (trial or result[column.key])["seconds"]
            grid.add_row(Text(column.label), format_cell(row, column), *passes, f"{seconds:.1f}")
    out_console.print(grid)
    means = [f"{column.label} {format_cell(row, column)} %" for column in table.columns if column.group == "balanced"]
    if means:
        worst = min(result["per_class"], key=lambda one: one["worst"] / one["of"])
        least = f"{worst['class']!r} {worst['worst']} of {worst['of']} in the worst case"
        say(f"classes are unequal; mean over the classes: {', '.join(means)}; the weakest is {least}")
    if result["artefact"]:
        _print_artefact(result["artefact"])
    if result["suite"]["caution"]:
        say(f"{result['suite']['name']}: {result['suite']['caution']}.")
    if result["answers"]["level"] != "fine":
        warn(f"{result['run']}: {result['answers']['finding']}")
    if result["reliability"]:
        say(result["reliability"]["sentence"])


def _print_artefact(result: "dict[str, Any]") -> None:
    time = result["latency"]
    say(f"one image on one thread: median {time['median']:.3f} ms, p99 {time['p99']:.3f} ms")
    say(f"{result['bytes']:,} bytes, {_format_count(result['multiply_adds'])} multiply-adds per image")
    for name in ("original", "teacher"):
        other = result[name]
        if other:
            ratio = ""
            if result["multiply_adds"] and other["multiply_adds"]:
                ratio = f", {other['multiply_adds'] / result['multiply_adds']:.1f} times as many"
            sizes = f"{other['bytes']:,} bytes, {_format_count(other['multiply_adds'])} multiply-adds{ratio}"
            say(f"{name} {other['name']}: {sizes}")
    if result["original"]:
        _print_pairs(result["original"])


def _format_count(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"


def _print_pairs(result: "dict[str, Any]") -> None:
    say(f"beside {result['name']}, the network it came from, example by example:")
    grid = Grid()
    grid.add_column("attack")
    for name in ("its correct, %", "lost by the file", "gained", "difference, points with 95 % interval"):
        grid.add_column(name, justify="right")
    for name, one in {"clean": result["clean"], **result["attacks"], "worst": result["worst"]}.items():
        paired = one["paired"]
        low, high = paired["interval"]
        points = f"{100 * paired['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        lost, gained = str(paired["only_before"]), str(paired["only_after"])
        grid.add_row(name, f"{100 * one['share']:.1f}", lost, gained, points)
    out_console.print(grid)
