"""How long work is followed: a bar that moves every second on a terminal, a line a minute in a file or a pipe."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from datetime import datetime, timedelta
from threading import Event, Lock, Thread, Timer
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from overproof.cli.console import out_console, say, warn

if TYPE_CHECKING:
    from overproof.commands.certify import CertificationEvent
    from overproof.commands.evaluate import EvaluationEvent
    from overproof.runs.summary import Beginning

T = TypeVar("T", "EvaluationEvent", "CertificationEvent")

_DRAWN = 2  # times a second, which also moves the clock while one step takes long
_LINE_SECONDS = 60.0  # between two lines where there is no terminal
_PATIENCE = 0.5  # seconds that first lines wait for a refusal, which is then all that is said


class Follower:
    """Shows where work is, from ``with`` to its end; what takes long without news is seen to go on.

    A thread draws, or writes the lines, so that a single long step does not look like a standstill.
    """

    def __init__(self, title: str) -> None:
        self.title, self.live = title, out_console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=out_console,
        )
        self._task = self._bar.add_task(title, total=None, count="", left="")
        self._figures, self._started, self._from = "", monotonic(), (monotonic(), 0.0)
        self._line, self._held, self._ended = "", ExitStack(), Event()
        self._waiting: list[str] | None = []
        self._printing = Lock()

    def __enter__(self) -> Self:
        soon = Timer(_PATIENCE, self.open)
        soon.daemon = True
        soon.start()
        self._held.callback(soon.join)
        self._held.callback(soon.cancel)
        if self.live:
            live = Live(get_renderable=self._drawn, console=out_console, refresh_per_second=_DRAWN)
            self._held.enter_context(live)
        else:
            lines = Thread(target=self._write_lines, daemon=True)
            lines.start()
            self._held.callback(lines.join)
            self._held.callback(self._ended.set)
        return self

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        if problem is None:
            self.open()
        self._held.close()

    def begin(self, beginning: "Beginning") -> None:
        """Print what is known before the work, unless it is refused in the same moment."""
        with self._printing:
            if self._waiting is not None:
                self._waiting += beginning.lines
                return
        for line in beginning.lines:
            say(line)

    def start(self, done: float) -> None:
        """Say where the work begins, for time left is reckoned from there."""
        self._from = monotonic(), done

    def show(self, done: float, total: float, count: str, figures: str, title: str = "") -> None:
        """Show how much is done: in figures of any unit, in words, and what was found."""
        self.open()
        since, first = self._from
        left = (monotonic() - since) * (total - done) / (done - first) if done > first else None
        words = "" if left is None else f"{_clock(left)} left"
        self._figures = figures
        self._bar.update(
            self._task, total=total, completed=done, count=count, left=words, description=title or self.title
        )
        self._line = ", ".join(part for part in (title or self.title, count, figures, words) if part)

    def open(self) -> None:
        """Print the first lines if they still wait, before anything else is printed."""
        with self._printing:
            lines, self._waiting = self._waiting, None
            for line in lines or ():
                say(line)

    def _drawn(self) -> Group:
        return Group() if self._waiting is not None else Group(self._bar, Text(self._figures, style="dim"))

    def _write_lines(self) -> None:
        while not self._ended.wait(_LINE_SECONDS):
            now, past = datetime.now().isoformat(" ", "seconds"), _clock(monotonic() - self._started)
            say(f"{now} {self._line or self.title}, {past} since the start")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def show_events(
    events: "Generator[Beginning | T, None, dict[str, Any]]",
    title: str,
    unit: str,
    told: "Callable[[T], tuple[str, str]]",
) -> "dict[str, Any]":
    """Follow an examination: the stage and the figure ``told`` of an item; off a terminal also a line per stage."""
    from overproof.runs.summary import Beginning

    with Follower(title) as follower:
        last, begun = "", False
        while True:
            try:
                item = next(events)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
            if isinstance(item, Beginning):
                follower.begin(item)
                continue
            follower.open()
            for warning in item.warnings:
                warn(warning)
            stage, figure = told(item)
            if not begun and item.done > 1:  # it goes on where another one stopped
                follower.start(item.done)
            begun = True
            follower.show(item.done, item.total, f"{unit} {item.done}/{item.total}", figure, f"{title} {stage}")
            if not follower.live and stage != last:
                say(f"{unit} {item.done}/{item.total}, {stage}: {figure}")
            last = stage
