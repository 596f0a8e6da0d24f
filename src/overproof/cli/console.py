"""Where the command line prints, and how it stops. Only this package prints."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from overproof.stopping import Stop, Stopped
from overproof.wording import visible

if TYPE_CHECKING:
    from pathlib import Path

    from overproof.runs.results import Kind


class _Stream:
    """A standard stream that may be closed, full or nobody's any more: then the work goes on without it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, if anybody still takes it."""
        return len(text) if self._try(lambda stream: stream.write(text)) else 0

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self.stream and self.stream.isatty())

    @property
    def stream(self) -> Any:
        """The stream of this moment, None where it is closed."""
        return getattr(sys, self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _try(self, work: Callable[[Any], Any]) -> bool:
        if self.problem or self.stream is None:
            return False
        try:
            work(self.stream)
        except OSError as problem:
            self.problem = problem
            # What is left in buffers must not fail again at the end of the process.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return not self.problem


class _PlainConsole(Console):
    """A console that shows text and obeys none of it: no markup, no emoji, no control characters of a stranger.

    What it is given may hold names from anybody's files; styles come from our own code alone.
    """

    def __init__(self, stream: _Stream, width: int | None = None) -> None:
        super().__init__(file=cast(IO[str], stream), width=width, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of a renderable with every text made visible; our own controls (a live bar) pass."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


_out, _err = _Stream("stdout"), _Stream("stderr")
# Off a terminal a table must not lose its intervals to a guessed width of 80.
out_console = _PlainConsole(_out, width=None if _out.isatty() else 160)
err_console = _PlainConsole(_err)


def say(sentence: str) -> None:
    """Print one line as it is, never wrapped or read as markup."""
    out_console.print(sentence, soft_wrap=True)


def warn(sentence: str) -> None:
    """Print one line to the error stream as it is."""
    err_console.print(sentence, soft_wrap=True)


def lost_output() -> str:
    """Return why not all lines could be printed, or nothing; a reader that left (``| head``) has what it wanted."""
    _out.flush()
    problem = _out.problem
    return "" if problem is None or isinstance(problem, BrokenPipeError) else problem.strerror or str(problem)


def say_where_kept(kind: "Kind", root: "Path", result: "dict[str, Any]") -> None:
    """Say where a result lies that is not the one which the run shows, being weaker or about something else."""
    if not kind.shows(root, result):
        say(f"kept in {kind.folder(root, result)}; the run shows a stronger result, or one for its own data and threat")


def leads() -> bool:
    """Whether this is the first, or the only, process; as the launcher said, for the others may be gone."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def stoppable(advice: str) -> Iterator[Stop]:
    """Turn Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP into one line that says what was kept.

    The exit status is 130, 143 or 129. A signal that is ignored (``nohup``) stays so. Work that saves its state first
    looks at the ``Stop`` that is given, and says what it saved; else the line is the ``advice``. After Ctrl-C the first
    of several processes speaks for all; after the others each does, for the first may be the one that is gone.
    """
    stop = Stop()
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: stop.ask(number)) for number in heeded}
    try:
        yield stop
    except Stopped as end:
        if leads():
            warn(str(end))
        raise typer.Exit(128 + end.number) from None
    except KeyboardInterrupt:
        number = stop.number or signal.SIGINT
        if leads() or number != signal.SIGINT:
            warn(f"stopped; {advice}")
        raise typer.Exit(128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
