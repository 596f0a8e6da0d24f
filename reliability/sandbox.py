"""A worker that reads strange files: forked, bounded in memory and time, and watched for what it does besides."""

import faulthandler
import os
import resource
import signal
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.errors import InputError

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEVER = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.sendto", "urllib.Request", "os.putenv", "os.kill", "ctypes.dlopen"),
    *("pickle.find_class", "webbrowser.open", "shutil.rmtree", "os.chmod", "os.chown", "os.link", "os.symlink"),
)
_TRUSTED = tuple({*site.getsitepackages(), *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))})


class Forbidden(BaseException):
    """What a reader of a foreign file must not do; no handler of ``Exception`` hides it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one input: ``accepted``, ``refused`` or ``wrong``, and what was wrong."""

    number: int
    word: str
    what: str = ""


class Watch:
    """An audit hook that is deaf but while a reader is at work; it cannot be taken away again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._source = Path(__file__).parents[1].resolve()
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _NEVER or self._runs_foreign_code(event, arguments) or self._writes_elsewhere(event, arguments):
            self.seen.append(f"{event}{str(arguments)[:200]}")
            raise Forbidden(self.seen[-1])

    def _runs_foreign_code(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event != "exec":
            return False
        file = getattr(arguments[0], "co_filename", "")
        known = file.startswith(("<frozen", *_TRUSTED, str(self._source)))
        # Classes of named values and of data are made by running texts of the library's own.
        return not known and file not in ("<string>", "<__array_function__ internals>") and "dataclass" not in file

    def _writes_elsewhere(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & _WRITING) if isinstance(flags, int) and mode is None else "r" not in str(mode or "r")
        elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"):
            path, writes = arguments[0], True
        else:
            return False
        if not writes or isinstance(path, int):
            return False
        return not Path(os.fsdecode(path)).resolve().is_relative_to(self._folder) and str(path) != os.devnull


def outcomes(
    make: Callable[[int], bytes],
    read: Callable[[bytes], object],
    numbers: range,
    *,
    folder: Path,
    warm: Callable[[], object],
    seconds: float = 10,
    patience: float = 200,
    memory: int = 3 * 2**30,
) -> Iterator[Outcome]:
    """Yield what came of each input; a worker that dies takes one input with it, and the next one goes on.

    ``memory`` bytes are what the worker may take beyond those it has after ``warm``. An input may take ``seconds`` of
    CPU time, and ``patience`` seconds by the clock.
    """
    start = numbers.start
    while start < numbers.stop:
        reading, writing = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            try:
                _live(make, read, range(start, numbers.stop), folder, warm, seconds, patience, memory, writing)
            finally:  # whatever happens, there is no way back into the parent's work
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "r", errors="replace") as lines:
            for line in lines:
                number, word, what = line.rstrip("\n").split(" ", 2)
                start = int(number) + 1
                yield Outcome(int(number), word, what)
        _, status = os.waitpid(worker, 0)
        if start < numbers.stop:
            ended = os.waitstatus_to_exitcode(status)
            said = signal.Signals(-ended).name if ended < 0 else f"exit {ended}"
            yield Outcome(start, "wrong", f"the process ended: {said}")
            start += 1


def _live(
    make: Callable[[int], bytes],
    read: Callable[[bytes], object],
    numbers: range,
    folder: Path,
    warm: Callable[[], object],
    seconds: float,
    patience: float,
    memory: int,
    pipe: int,
) -> None:
    """Be the worker: never returns."""
    for clock in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(clock, signal.SIG_DFL)
    faulthandler.disable()
    watch = Watch(folder)
    warm()
    with Path("/proc/self/statm").open() as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native readers remark
    for number in numbers:
        # The default action of both ends the process, native code included; a wait uses no CPU time.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, patience)
        watch.seen = []
        word, what = "accepted", ""
        try:
            watch.active = False
            body = make(number)
            watch.active = True
            read(body)
        except InputError as problem:
            said = str(problem)
            word, what = ("wrong", f"{said.count(chr(10)) + 1} lines") if "\n" in said else ("refused", said)
        except BaseException as problem:
            word, what = "wrong", _told(problem)
        finally:
            watch.active = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        if watch.seen:
            word, what = "wrong", f"forbidden: {watch.seen[0]}"
        line = f"{number} {word} {' '.join(what[:400].split())}\n"
        os.write(pipe, line.encode(errors="backslashreplace"))
    os._exit(0)


def _told(problem: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if "/overproof/" in frame.filename]
    where = f" at {frames[-1].filename.rpartition('/overproof/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(problem).__name__}{where}: {' '.join(str(problem).split())[:200]}"
