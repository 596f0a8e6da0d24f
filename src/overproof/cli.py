"""The command line: reads words, calls verbs, prints. The only place that prints."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from overproof.errors import InputError

if TYPE_CHECKING:
    from overproof.report.table import Table
    from overproof.verbs.certify import Certifying
    from overproof.verbs.evaluate import Attacking
    from overproof.verbs.quickstart import Outcome
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


T = TypeVar("T", "Attacking", "Certifying")


class NormName(StrEnum):
    """The norms, as an option."""

    linf = "linf"
    l2 = "l2"
    l1 = "l1"


class BoundName(StrEnum):
    """How far a certificate's cascade goes, as an option."""

    ibp = "ibp"
    crown_ibp = "crown_ibp"
    crown = "crown"
    alpha = "alpha"
    splitting = "split"


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
    """Train robust teachers and small students on embedded digits, attack, prove and compare: some minutes."""
    from overproof.verbs.quickstart import quickstart_steps

    with _stoppable("finished runs are kept, and the same command continues"):
        for step in quickstart_steps(out):
            if isinstance(step, str):
                _say(step)
            else:
                _print_outcome(step)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one: mnist/ard.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Edit the recipe, e.g. --set method.inner.steps=20."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, to the bit.")] = False,
    device: Device = "auto",
) -> None:
    """Train a student (or a teacher) by a recipe.

    Example: overproof train mnist/ard --set training.epochs=10
    """
    from overproof.recipe import read
    from overproof.run import Run
    from overproof.shipped import find_recipe
    from overproof.verbs.train import default_folder, overfitting, training

    settled = read(find_recipe(recipe), sets or ())
    folder = out or default_folder(settled)
    with _stoppable(f"the last checkpoint is in {folder / 'checkpoint'}, continue with --resume"):
        _show_training(training(settled, folder, resume=resume, device=device), settled.name)
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
    from overproof.evaluation.shards import Shard
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
        found = _show_course(course, run, "pass", lambda item: (item.attack, f"robust {item.robust} %"))
    if Shard.here().leads:
        _print_evaluation(found)


@app.command()
def certify(
    run: Annotated[str, typer.Argument(help="A run folder, package.module:factory, timm:NAME or robustbench:NAME.")],
    teacher: Annotated[str | None, typer.Option(help="Bracket the gap to this run or network as well.")] = None,
    eps: Annotated[str | None, typer.Option(help="Another radius, e.g. 8/255.")] = None,
    norm: Annotated[NormName | None, typer.Option(help="Another norm, linf or l2.")] = None,
    bound: Annotated[BoundName, typer.Option(help="How far the cascade of bounds goes.")] = BoundName.splitting,
    seconds: Annotated[float, typer.Option(help="Time per example for alpha and split; with a teacher twice.")] = 1.0,
    gamma: Annotated[float | None, typer.Option(help="One more gap of confidences on the teacher's curve.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="Smooth with this sigma in l2, instead of bounds.")] = None,
    samples: Annotated[int, typer.Option(help="Noisy images per example that smoothing counts.")] = 10_000,
    examples: Annotated[int | None, typer.Option(help="A class-balanced subset of the test split; 0: all.")] = None,
    data: Annotated[str | None, typer.Option(help="Images of a foreign network: digits, a hub id or a path.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset, the attacks and the noise.")] = 0,
    batch: Annotated[int, typer.Option(help="Examples that are certified together.")] = 100,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted certification.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the results; default the run's own.")] = None,
    device: Device = "auto",
) -> None:
    """Prove what a network withstands; write certificate.json, certificate.jsonl and the counter-examples.

    Example: overproof certify runs/mnist-ard --eps 0.1 --teacher runs/mnist-teacher --examples 1000
    """
    from overproof.evaluation.shards import Shard
    from overproof.verbs.certify import certifying

    course = certifying(
        run,
        teacher=teacher,
        eps=eps,
        norm=None if norm is None else norm.value,
        bound=bound.value,
        seconds=seconds,
        gamma=gamma,
        smoothing=smoothing,
        samples=samples,
        examples=examples,
        data=data,
        seed=seed,
        batch=batch,
        resume=resume,
        out=out,
        device=device,
    )
    with _stoppable("finished examples are kept, continue with --resume"):
        found = _show_course(course, run, "example", lambda item: (item.stage, f"verified {item.verified} %"))
    if Shard.here().leads:
        _print_certificate(found)


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
        err_console.print(f"overproof: {problem}", markup=False, soft_wrap=True)
        sys.exit(2)
    sys.exit(0)


def _say(sentence: str) -> None:
    out_console.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def _stoppable(advice: str) -> Iterator[None]:
    """Turn Ctrl-C into one line that says what was kept, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        err_console.print(f"stopped; {advice}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None


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


def _show_course(
    course: "Generator[T, None, dict[str, Any]]", title: str, unit: str, told: "Callable[[T], tuple[str, str]]"
) -> "dict[str, Any]":
    """Show a live bar with the stage and the figure ``told`` of an item on a terminal, a line per stage elsewhere."""
    live = out_console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
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
            stage, figure = told(item)
            bar.update(task, total=item.total, completed=item.done, description=f"{title} {stage}, {figure}")
            if not live and stage != last:
                _say(f"{unit} {item.done}/{item.total}, {stage}: {figure}")
            last = stage


def _print_certificate(found: "dict[str, Any]") -> None:
    threat, data, proven = found["threat"], found["data"], found["verified"]
    low, high = proven["interval"]
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found["counts"].items())
    title = f"{found['run']}; {data['name']}, {data['examples']} of {data['of']} test images"
    _say(f"{title}; {threat['norm']} eps {threat['eps']}")
    _say(f"certified accuracy: {100 * proven['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}] %; {counts}")
    if found["kind"] == "bounds":
        grid = Grid()
        for name in ("stage", "verified", "falsified", "seconds"):
            grid.add_column(name, justify="left" if name == "stage" else "right")
        for name, part in found["stages"].items():
            grid.add_row(name, str(part["verified"]), str(part["falsified"]), f"{part['seconds']:.1f}")
        out_console.print(grid)
    else:
        _say("of the smoothed network, which answers by vote under noise; the network itself has no certificate")
    if found["teacher"]:
        _print_brackets(found["teacher"])


def _print_brackets(found: "dict[str, Any]") -> None:
    _say(f"beside {found['name']}, on {found['examples']} of {found['of']} images that it classifies correctly:")
    grid = Grid()
    for name in ("", "attacked: at least", "proven: at most"):
        grid.add_column(name, justify="right" if name else "left")
    for name, label in (("gap", "mean gap"), ("under", "mean, student less sure"), ("over", "mean, student surer")):
        grid.add_row(label, f"{found[name]['attacked']:.4f}", f"{found[name]['proven']:.4f}")
    out_console.print(grid)
    grid = Grid()
    for name in ("", "proven: at least, %", "not refuted: at most, %"):
        grid.add_column(name, justify="right" if name else "left")
    shares = [("same class", found["agreement"])]
    shares += [(f"same class and a gap of at most {one['gamma']:g}", one) for one in found["curve"]]
    for label, one in shares:
        grid.add_row(label, *(f"{100 * one[side]['share']:.1f}" for side in ("proven", "standing")))
    out_console.print(grid)
    if found["errors"]:
        _say(f"{found['errors']} examples could not be compared; certificate.jsonl says why")


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
    _say(f"{outcome.verdict}\n{outcome.proof}")
    _say(f"report: {outcome.report}")
