"""The words of `overproof train`."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from overproof.cli.completion import recipes
from overproof.cli.console import leads, out_console, say, stoppable, warn
from overproof.cli.options import Device, TrustCode
from overproof.errors import InputError

if TYPE_CHECKING:
    from overproof.verbs.sweep import Sweep
    from overproof.verbs.train import News


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe or sweep file, or the name of a shipped recipe: mnist/ard.", autocompletion=recipes
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Edit the recipe; may be repeated: --set method.inner.steps=20."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, to the bit.")] = False,
    device: Device = "auto",
    jobs: Annotated[
        int | None, typer.Option(help="Cells of a sweep trained at a time; default: what the networks' size suggests.")
    ] = None,
    cell: Annotated[int | None, typer.Option(help="Train this cell of a sweep alone, counted from 0.")] = None,
    shard_teachers: Annotated[
        bool, typer.Option("--shard-teachers", help="Share the teachers' weights among the processes of this run.")
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Train a student (or a teacher) by a recipe, or every cell of a sweep.

    Example: overproof train mnist/ard --set training.epochs=10
    """
    from overproof.report.overfitting import overfitting
    from overproof.run import Run
    from overproof.shipped import find_recipe
    from overproof.verbs.sweep import Sweep, read_sweep
    from overproof.verbs.train import default_folder, training

    file = find_recipe(recipe)
    found = read_sweep(file, sets or (), trust_code=trust_code)
    if not isinstance(found, Sweep):
        if jobs is not None or cell is not None:
            raise InputError(f"{recipe}: --jobs and --cell are for sweeps, and this is a recipe")
        settled = found
        folder = out or default_folder(settled)
    elif cell is None:
        if shard_teachers:
            raise InputError(f"{recipe}: --shard-teachers is for one run on several processes, and this is a sweep")
        options = {"resume": resume, "device": device, "trust_code": trust_code}
        _train_sweep(found, out or found.folder, jobs, sets or (), options)
        return
    elif jobs is not None:
        raise InputError("--jobs is for all cells of a sweep, --cell for one of them; use one of the two")
    else:
        settled = found.cell(cell).recipe
        folder = (out or found.folder) / found.cell(cell).name
    with stoppable(f"the last checkpoint is in {folder / 'checkpoint'}, continue with --resume"):
        news = training(
            settled, folder, resume=resume, device=device, shard_teachers=shard_teachers, beside=file.parent
        )
        _follow(news, settled.name)
    if leads():
        say(overfitting(Run(folder).metrics()))
        say(f"run folder: {folder}")


def _train_sweep(sweep: "Sweep", out: Path, jobs: int | None, sets: Sequence[str], options: dict[str, Any]) -> None:
    from overproof.report.overfitting import overfitting
    from overproof.verbs.sweep import sweeping

    with stoppable("finished cells and checkpoints are kept, continue with --resume"):
        for ended in sweeping(sweep, out, jobs=jobs, sets=sets, **options):
            outcome = ended.problem or overfitting(ended.run.metrics())
            say(f"cell {ended.number} of {len(sweep.cells)}, {ended.cell.name}: {outcome}")
    say(f"run folders: {out}/*")


def _follow(news: "Iterator[News]", title: str) -> None:
    """Show a line per epoch; on a terminal also a bar with the time left, and the losses of the moment below it."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeRemainingColumn(),
        console=out_console,
    )
    task = bar.add_task(title)
    with Live(console=out_console, refresh_per_second=4) if out_console.is_terminal else nullcontext() as live:
        for item in news:
            for warning in item.warnings:
                warn(warning)
            if item.progress.whole:
                say(_epoch_line(item))
            if live is not None:
                done = item.progress.epoch + item.progress.batch / item.progress.batches
                bar.update(task, total=item.epochs, completed=done)
                live.update(Group(bar, Text(_moment(item), style="dim")))


def _moment(item: "News") -> str:
    """Return the losses and the learning rate of the epoch that is running, and the best epoch so far."""
    terms = ", ".join(f"{name} {value:.4f}" for name, value in item.progress.means.items())
    line = f"{terms}, lr {item.learning_rate:.2g}"
    if item.best is None:
        return line
    best = f"clean {100 * item.best.clean:.1f} %, robust {100 * item.best.robust:.1f} %"
    return f"{line}; best epoch {item.best.epoch}: {best}"


def _epoch_line(item: "News") -> str:
    terms = ", ".join(f"{name} {value:.4f}" for name, value in item.progress.means.items())
    line = f"epoch {item.progress.epoch}/{item.epochs}: {terms}, lr {item.learning_rate:.2g}"
    if item.validation is None:
        return line
    found = item.validation
    return f"{line}; held out: clean {100 * found.clean:.1f} %, robust {100 * found.robust:.1f} %"
