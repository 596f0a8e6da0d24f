"""The words of `overproof train`."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from overproof.cli.console import out_console, say, stoppable, warn
from overproof.cli.options import Device

if TYPE_CHECKING:
    from overproof.verbs.train import News


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
    with stoppable(f"the last checkpoint is in {folder / 'checkpoint'}, continue with --resume"):
        _follow(training(settled, folder, resume=resume, device=device), settled.name)
    say(overfitting(Run(folder)))
    say(f"run folder: {folder}")


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
