"""The command line: reads words, calls verbs, prints. The only place that prints."""

import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from overproof.errors import AgreedError, InputError

if TYPE_CHECKING:
    from overproof.report.table import Table
    from overproof.verbs.evaluate import Attacking
    from overproof.verbs.quickstart import Outcome
    from overproof.verbs.sweep import Sweep
    from overproof.verbs.train import News

# Everything that needs torch is imported inside the verb that needs it: --help and a misspelt option answer at once.

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil small robust image classifiers, attack them, prove what can be proved, and ship them.",
)
# Off a terminal a table must not lose its intervals to a guessed width of 80.
out_console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err_console = Console(stderr=True, highlight=False)


class NormName(StrEnum):
    """The norms, as an option."""

    linf = "linf"
    l2 = "l2"
    l1 = "l1"


class PrecisionName(StrEnum):
    """The arithmetics, as an option."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where the runs and report.html go.")] = Path("runs/quickstart"),
) -> None:
    """Train a robust teacher and small students on embedded digits, attack them, compare: two minutes."""
    from overproof.verbs.quickstart import quickstart_steps

    with _stoppable("finished runs are kept, and the same command continues"):
        for step in quickstart_steps(out):
            if isinstance(step, str):
                _say(step)
            else:
                _print_outcome(step)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe or sweep file, or the name of a shipped recipe: mnist/ard.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Edit the recipe, e.g. --set method.inner.steps=20."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, to the bit.")] = False,
    device: Device = "auto",
    jobs: Annotated[int | None, typer.Option(help="Cells of a sweep trained at a time; default 1.")] = None,
    cell: Annotated[int | None, typer.Option(help="Train this cell of a sweep alone, counted from 0.")] = None,
) -> None:
    """Train a student (or a teacher) by a recipe, or every cell of a sweep.

    Example: overproof train mnist/ard --set training.epochs=10
    """
    from overproof.recipe import read
    from overproof.run import Run
    from overproof.shipped import find_recipe
    from overproof.verbs.sweep import read_sweep
    from overproof.verbs.train import default_folder, overfitting, training

    file = find_recipe(recipe)
    sweep = read_sweep(file, sets or ())
    if sweep is None:
        if jobs is not None or cell is not None:
            raise InputError(f"{recipe}: --jobs and --cell are for sweeps, and this is a recipe")
        settled = read(file, sets or ())
        folder = out or default_folder(settled)
    elif cell is None:
        _train_sweep(sweep, out or sweep.folder, 1 if jobs is None else jobs, sets or (), resume, device)
        return
    elif jobs is not None:
        raise InputError("--jobs is for all cells of a sweep, --cell for one of them; use one of the two")
    else:
        settled = sweep.cell(cell).recipe
        folder = (out or sweep.folder) / sweep.cell(cell).name
    with _stoppable(f"the last checkpoint is in {folder / 'checkpoint'}, continue with --resume"):
        _show_training(training(settled, folder, resume=resume, device=device), settled.name)
    if _leads():
        _say(overfitting(Run(folder)))
        _say(f"run folder: {folder}")


@app.command()
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
    from overproof.verbs.evaluate import evaluating

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
    with _stoppable("finished blocks are kept, continue with --resume"):
        found = _show_attacking(course, run)
    if _leads():
        _print_evaluation(found)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path | None, typer.Option(help="Write the comparison as one offline page.")] = None,
) -> None:
    """Put evaluated runs into one table per data set and threat model.

    Example: overproof compare runs/mnist-* --out report.html
    """
    from overproof.verbs.compare import compare as verb

    _print_tables(verb(runs, out=out))
    if out:
        _say(f"report: {out}")


@app.command(name="list")
def list_(what: Annotated[str, typer.Argument(metavar="methods|attacks|models|datasets|recipes")]) -> None:
    """List what there is to choose from.

    Example: overproof list methods
    """
    from overproof.verbs.inventory import inventory

    for name, line in inventory(what):
        out_console.print(f"{name:<18} {line}" if line else name, markup=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line; bad input is one line and exit status 2."""
    try:
        app()
    except InputError as problem:
        if not isinstance(problem, AgreedError) or _leads():
            err_console.print(f"overproof: {problem}", markup=False, soft_wrap=True)
        sys.exit(2)
    sys.exit(0)


def _say(sentence: str) -> None:
    out_console.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def _stoppable(advice: str) -> Iterator[None]:
    """Turn Ctrl-C, and the SIGTERM of a scheduler, into one line that says what was kept, and exit status 130 or 143.

    After Ctrl-C the first of several processes speaks for all; after SIGTERM each does, for the first may be the one
    that is gone.
    """
    received = [signal.SIGINT]

    def stop(number: int, _: object) -> NoReturn:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if _leads() or received[-1] == signal.SIGTERM:
            err_console.print(f"stopped; {advice}", markup=False, soft_wrap=True)
        raise typer.Exit(128 + received[-1]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _leads() -> bool:
    """Whether this is the first, or the only, process; as the launcher said, for the others may be gone."""
    return os.environ.get("RANK", "0") == "0"


def _train_sweep(sweep: "Sweep", out: Path, jobs: int, sets: Sequence[str], resume: bool, device: str) -> None:
    from overproof.verbs.sweep import sweeping
    from overproof.verbs.train import overfitting

    with _stoppable("finished cells and checkpoints are kept, continue with --resume"):
        for ended in sweeping(sweep, out, jobs=jobs, sets=sets, resume=resume, device=device):
            outcome = ended.problem or overfitting(ended.run)
            _say(f"cell {ended.number} of {len(sweep.cells)}, {ended.cell.name}: {outcome}")
    _say(f"run folders: {out}/*")


def _show_training(news: "Iterator[News]", title: str) -> None:
    """Show a live bar on a terminal, a line per epoch elsewhere."""
    live = out_console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    with Progress(*columns, TimeRemainingColumn(), console=out_console, disable=not live) as bar:
        task = bar.add_task(title)
        for item in news:
            for warning in item.warnings:
                err_console.print(warning, markup=False, soft_wrap=True)
            done = item.progress.epoch + item.progress.batch / item.progress.batches
            best = f", best robust {100 * item.best.robust:.1f} %" if item.best else ""
            bar.update(task, total=item.epochs, completed=done, description=f"{title}{best}")
            if item.progress.whole and not live:
                _say(_epoch_line(item))


def _show_attacking(course: "Generator[Attacking, None, dict[str, Any]]", title: str) -> "dict[str, Any]":
    """Show a live bar with the running robust accuracy on a terminal, a line per block of passes elsewhere."""
    live = out_console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("passes"))
    with Progress(*columns, TimeRemainingColumn(), console=out_console, disable=not live) as bar:
        task = bar.add_task(title)
        last = ""
        while True:
            try:
                item = next(course)
            except StopIteration as end:
                found: dict[str, Any] = end.value
                return found
            for warning in item.warnings:
                err_console.print(warning, markup=False, soft_wrap=True)
            bar.update(
                task,
                total=item.total,
                completed=item.done,
                description=f"{title} {item.attack}, robust {item.robust} %",
            )
            if not live and item.attack != last:
                _say(f"pass {item.done}/{item.total}, {item.attack}: robust {item.robust} %")
            last = item.attack


def _print_evaluation(found: "dict[str, Any]") -> None:
    from overproof.report.table import tables

    (table,) = tables([found])
    (row,) = table.rows
    after = " (each on the survivors)" if found["suite"]["survivors"] else ""
    grid = Grid(title=f"{row.name}; {table.title}; {found['suite']['name']}{after}", title_justify="left")
    grid.add_column("attack")
    for name in ("correct, % with 95 % interval", "forward passes", "backward passes", "seconds"):
        grid.add_column(name, justify="right")
    for name in table.columns:
        trial = found["attacks"].get(name, {})
        passes = (f"{trial[key]:,}" if key in trial else "" for key in ("forward", "backward"))
        seconds = (trial or found[name])["seconds"]
        grid.add_row(name, str(row.cells[name]), *passes, f"{seconds:.1f}")
    out_console.print(grid)
    if found["suite"]["caution"]:
        _say(f"{found['suite']['name']}: {found['suite']['caution']}.")
    if found["reliability"]:
        _say(found["reliability"]["sentence"])


def _epoch_line(item: "News") -> str:
    terms = ", ".join(f"{name} {value:.4f}" for name, value in item.progress.means.items())
    line = f"epoch {item.progress.epoch}/{item.epochs}: {terms}, lr {item.learning_rate:.2g}"
    if item.validation is None:
        return line
    found = item.validation
    return f"{line}; held out: clean {100 * found.clean:.1f} %, robust {100 * found.robust:.1f} %"


def _print_tables(found: "Sequence[Table]") -> None:
    for table in found:
        grid = Grid(title=f"{table.title}; % with 95 % interval", title_justify="left")
        grid.add_column("run", overflow="fold")
        grid.add_column("method")
        grid.add_column("parameters", justify="right")
        for column in table.columns:
            grid.add_column(column, justify="right")
        for row in table.rows:
            cells = [str(row.cells[column]) if column in row.cells else "not run" for column in table.columns]
            grid.add_row(row.name, row.method, f"{row.parameters:,}", *cells)
        out_console.print(grid)


def _print_outcome(outcome: "Outcome") -> None:
    grid = Grid(title="digits, 360 test images; worst case of FGSM and PGD-20 with 3 restarts", title_justify="left")
    for name in ("network", "parameters", "clean, %", "robust, %"):
        grid.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for line in outcome.lines:
        grid.add_row(line.name, f"{line.parameters:,}", str(line.clean), str(line.robust))
    out_console.print(grid)
    _say(outcome.verdict)
    _say(f"report: {outcome.report}")
