"""Steps: commands of overproof, each in a process of its own, some of which need what others leave.

The runner of sweeps and studies. Whatever stops it, the same call continues: a step that is done is left out.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from overproof.files import make_folder
from overproof.locking import lock as take_lock

PROGRAM = (sys.executable, "-m", "overproof")
_LOOK_SECONDS = 0.1
_ASK_SECONDS = 1.0  # whether a step is done is read from files, which other runners may have written


@dataclass(frozen=True, kw_only=True)
class CommandStep:
    """One command: its ``words`` and whether its files say that it is ``done``; the steps it ``needs`` come before.

    Who holds the file ``lock`` does the step; other runners on the machine wait. None: there is one runner.
    """

    name: str
    words: tuple[str, ...]
    done: Callable[[], bool]
    needs: tuple[str, ...] = ()
    lock: Path | None = None


@dataclass(frozen=True, kw_only=True)
class StepStarted:
    """The process of a step is about to start."""

    step: CommandStep


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """A step is over: ``problem`` says why it failed, else it is empty.

    ``stopped``: the time was up, and the next call continues it. Not ``ran``: it was done already, or left out.
    """

    step: CommandStep
    problem: str = ""
    stopped: bool = False
    ran: bool = True


def run_steps(
    steps: Sequence[CommandStep],
    *,
    jobs: int = 1,
    threads: int = 1,
    options: Callable[[CommandStep, int], Sequence[str]] = lambda step, slot: (),
    deadline: float = float("inf"),
    program: Sequence[str] = PROGRAM,
) -> Generator[StepStarted | StepEnded, None, None]:
    """Run the steps that are not done, in order and at most ``jobs`` at a time; yield what happens.

    Each has ``threads``, unless the environment says otherwise. ``options`` are further words of a step, by the number
    of its place from 0 on. At ``deadline``, a time of ``time.monotonic``, what runs is asked to stop. After a step that
    failed, those that need it are left out. A caller that stops early stops the processes too.
    """
    known = {step.name: step for step in steps}
    waiting, running, over, failed = list(steps), list[_Process](), set[str](), set[str]()
    free, ask = list(range(jobs))[::-1], 0.0

    def is_over(name: str) -> bool:
        if name not in over and (name not in known or known[name].done()):
            over.add(name)
        return name in over

    try:
        while waiting or running:
            now, held = time.monotonic(), list[CommandStep]()
            late = now >= deadline
            while waiting and free and (late or now >= ask):
                step = waiting.pop(0)
                if is_over(step.name):
                    yield StepEnded(step=step, ran=False)
                elif lacking := [need for need in step.needs if need in failed]:
                    failed.add(step.name)
                    yield StepEnded(step=step, problem=f"left out, because {lacking[0]} has failed", ran=False)
                elif late or not all(map(is_over, step.needs)) or (lock := _lock(step)) is None:
                    held.append(step)
                else:
                    try:
                        yield StepStarted(step=step)
                        words = [*program, *step.words, *options(step, free[-1])]
                        running.append(_Process(step, free.pop(), words, threads, lock))
                    except BaseException:  # a caller that stops here as well
                        lock.close()
                        raise
            waiting, ask = held + waiting, now + _ASK_SECONDS if now >= ask else ask
            if late:
                for process in running:
                    process.terminate()
            for process in [one for one in running if late or one.has_ended]:
                stopped = process.stop()
                running.remove(process)
                ask = 0.0
                free.append(process.slot)
                problem = process.problem()
                if stopped and problem:
                    yield StepEnded(step=process.step, stopped=True)
                else:
                    failed |= {process.step.name} if problem else set()
                    yield StepEnded(step=process.step, problem=problem)
            if late:
                return
            time.sleep(_LOOK_SECONDS if waiting or running else 0)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.stop()
            process.close()


class _Lock(NamedTuple):
    """What a process of a step holds, if anything, and where what it says goes; both are closed with it."""

    held: IO[bytes] | None
    said: IO[bytes]

    def close(self) -> None:
        """Let go of the lock and of what was said."""
        self.said.close()
        if self.held is not None:
            self.held.close()


def _lock(step: CommandStep) -> _Lock | None:
    """Return the lock of a step; None where another runner has it, or its process, or has just done the step."""
    if step.lock is None:
        return _Lock(None, tempfile.TemporaryFile())
    make_folder(step.lock.parent)
    held = step.lock.open("ab")
    try:
        take_lock(held.fileno())
    except BlockingIOError:
        held.close()
        return None
    if step.done():
        held.close()
        return None
    return _Lock(held, step.lock.with_name(f"{step.lock.name}.log").open("w+b"))


class _Process:
    """The process of a step, in its place among those that run at a time."""

    def __init__(self, step: CommandStep, slot: int, words: Sequence[str], threads: int, lock: _Lock) -> None:
        self.step, self.slot, self._lock, self._stopped = step, slot, lock, False
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=lock.said,
            stderr=subprocess.STDOUT,
            # The process holds the lock as well: it is free once both are gone, even where this one is killed.
            pass_fds=() if lock.held is None else (lock.held.fileno(),),
            # Processes that each take all cores take turns.
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
        )

    @property
    def has_ended(self) -> bool:
        """Whether it ran to its end, or was ended by others."""
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to stop, if it still runs."""
        if not self.has_ended:
            self._stopped = True
            self._process.terminate()

    def stop(self) -> bool:
        """Ask it to stop and wait until it is gone; return whether it still ran when it was first asked."""
        self.terminate()
        self._process.wait()
        return self._stopped

    def problem(self) -> str:
        """Return why the step is not done: the last line that was said; an empty text where it is. Asked once."""
        self._lock.said.seek(0)
        lines = self._lock.said.read().decode(errors="replace").strip().splitlines()
        self.close()
        if self._process.returncode:
            return lines[-1] if lines else f"exit status {self._process.returncode}"
        return "" if self.step.done() else "it ended well, but its result is not there"

    def close(self) -> None:
        """Let go of the lock and of what was said."""
        self._lock.close()
