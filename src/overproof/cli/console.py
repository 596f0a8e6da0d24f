"""Where the command line prints, how it follows long work, and how it stops. Only this room prints."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from overproof.verbs.certify import Certifying
    from overproof.verbs.evaluate import Attacking

T = TypeVar("T", "Attacking", "Certifying")

# Off a terminal a table must not lose its intervals to a guessed width of 80.
out_console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err_console = Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """Print one line as it is, never wrapped or read as markup."""
    out_console.print(sentence, markup=False, soft_wrap=True)


def warn(sentence: str) -> None:
    """Print one line to the error stream as it is."""
    err_console.print(sentence, markup=False, soft_wrap=True)


def leads() -> bool:
    """Whether this is the first, or the only, process; as the launcher said, for the others may be gone."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def stoppable(advice: str) -> Iterator[None]:
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
        if leads() or received[-1] == signal.SIGTERM:
            warn(f"stopped; {advice}")
        raise typer.Exit(128 + received[-1]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def show_course(
    course: "Generator[T, None, dict[str, Any]]", title: str, unit: str, told: "Callable[[T], tuple[str, str]]"
) -> "dict[str, Any]":
    """Show a live bar with the stage and the figure ``told`` of an item on a terminal, a line per stage elsewhere."""
    live = out_console.is_terminal
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
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
                warn(warning)
            stage, figure = told(item)
            bar.update(task, total=item.total, completed=item.done, description=f"{title} {stage}, {figure}")
            if not live and stage != last:
                say(f"{unit} {item.done}/{item.total}, {stage}: {figure}")
            last = stage
