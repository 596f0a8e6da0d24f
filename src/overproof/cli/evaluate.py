"""The words of `overproof evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.console import out_console, say, show_course, stoppable
from overproof.cli.options import Device, NormName, PrecisionName


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, package.module:factory, timm:NAME or robustbench:NAME.")],
    attacks: Annotated[
        str,
        typer.Option(help="standard, quick, mtard, rrm, rrm-l2, a YAML file, or attack names, comma-separated."),
    ] = "",
    eps: Annotated[str | None, typer.Option(help="Another radius, e.g. 8/255.")] = None,
    norm: Annotated[NormName | None, typer.Option(help="Another norm.")] = None,
    examples: Annotated[int | None, typer.Option(help="A class-balanced subset of the test split; 0: all.")] = None,
    data: Annotated[str | None, typer.Option(help="Images of a foreign network: digits, a hub id or a path.")] = None,
    teacher: Annotated[str | None, typer.Option(help="For transfer attacks and agreement; a run or a network.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset and of the attacks.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Examples that go through the attacks together.")] = None,
    precision: Annotated[PrecisionName, typer.Option(help="Of the search; successes are confirmed in fp32.")] = (
        PrecisionName.auto
    ),
    reliability: Annotated[bool, typer.Option(help="Probe the network for hidden gradients.")] = True,
    save_adversarial: Annotated[bool, typer.Option("--save-adversarial", help="Keep the broken images.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the results; default the run's own.")] = None,
    device: Device = "auto",
) -> None:
    """Attack a network on the test split; write evaluation.json and examples.jsonl.

    Example: overproof evaluate runs/mnist-ard --attacks standard --examples 1000
    """
    from overproof.evaluation.shards import Shard
    from overproof.verbs.compare import write_report
    from overproof.verbs.evaluate import evaluating
    from overproof.verbs.examinee import results_folder

    course = evaluating(
        run,
        attacks=tuple(name.strip() for name in attacks.split(",") if name.strip()),
        eps=eps,
        norm=None if norm is None else norm.value,
        examples=examples,
        data=data,
        teacher=teacher,
        seed=seed,
        batch=batch,
        precision=precision.value,
        reliability=reliability,
        save_adversarial=save_adversarial,
        resume=resume,
        out=out,
        device=device,
    )
    with stoppable("finished blocks are kept, continue with --resume"):
        found = show_course(course, run, "pass", lambda item: (item.attack, f"robust {item.robust} %"))
    if Shard.here().leads:
        _print_evaluation(found)
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
    if found["suite"]["caution"]:
        say(f"{found['suite']['name']}: {found['suite']['caution']}.")
    if found["reliability"]:
        say(found["reliability"]["sentence"])
