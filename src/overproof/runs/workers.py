"""Work that is independent, done at the same time: processes of one thread each take tasks as they become ready.

A second thread makes a step 1.1 to 1.7 times as fast (``benchmarks/threads.py``); a second run has a core of its own.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from select import select
from typing import IO, Any, NamedTuple

from overproof.errors import InputError

ONE_CORE = 9e9
"""Multiply-adds of one pass over a batch up to which runs get one thread each: as far as ``benchmarks/threads.py``
went, where a second thread made a step 1.1 to 1.7 times as fast; a second run has a core of its own."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Keyword arguments, in JSON's types, that a worker's function is called with after the tasks named in ``after``.

    ``sentence`` says what begins; it may be empty.
    """

    name: str
    words: Mapping[str, Any]
    after: tuple[str, ...] = ()
    sentence: str = ""


class Heard(NamedTuple):
    """A task has begun, or has ended with a result."""

    task: Task
    ended: bool = False
    result: Any = None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """Return how many threads the user gives each process: one where nothing, or no number, is said (``4,2``: four)."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() and len(first) < 10 else 1


def performing(tasks: Sequence[Task], function: str, *, jobs: int | None = None) -> Iterator[Heard]:
    """Do all tasks, ``jobs`` at a time (None: one per core); yield as each begins, in their order, and as it ends.

    ``function`` is a ``module:name`` of this package. Raises ``InputError`` with its sentence where it raised one, and
    where a process was killed. A caller that stops early stops the processes too.
    """
    crew: list[Worker] = []
    idle: list[Worker] = []
    busy: dict[IO[str], tuple[Worker, Task]] = {}
    waiting, done = list(tasks), set[str]()
    most = jobs or max(1, cores() // _threads())
    try:
        while waiting or busy:
            for task in [task for task in waiting if done.issuperset(task.after)]:
                if not idle and len(crew) >= most:
                    break
                if not idle:
                    crew.append(Worker(function))
                    idle.append(crew[-1])
                waiting.remove(task)
                yield Heard(task)
                worker = idle.pop()
                busy[worker.asked(task)] = worker, task
            for answers in select(list(busy), (), ())[0]:
                worker, task = busy.pop(answers)
                result = worker.answer()
                idle.append(worker)
                done.add(task.name)
                yield Heard(task, ended=True, result=result)
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.close()


def serve(function: Callable[..., Any]) -> None:
    """Answer every line of standard input, the function's arguments, by a line: its result, or an error's sentence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one in front stops the others
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        try:
            said = {"result": function(**json.loads(line))}
        except InputError as problem:
            said = {"problem": str(problem)}
        answers.write(f"{json.dumps(said)}\n")
        answers.flush()


@dataclass
class Worker:
    """A process that serves one function, with so many threads where the environment does not say how many."""

    function: str
    threads: int = 1
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        module, _, name = self.function.partition(":")
        code = f"from {module} import {name}; from {__name__} import serve; serve({name})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"OMP_NUM_THREADS": str(self.threads), **os.environ},
        )

    def asked(self, task: Task) -> IO[str]:
        """Hand over a task; return where the answer comes from."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{json.dumps(dict(task.words))}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._gone()
        return self.process.stdout

    def answer(self) -> Any:
        """Return the result of the task it was asked for; raise ``InputError`` where there is none."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self._gone()
        said = json.loads(line)
        if "problem" in said:
            raise InputError(said["problem"])
        return said["result"]

    def close(self) -> None:
        """Wait for the end of the process, and give its pipes back."""
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _gone(self) -> None:
        status = self.process.wait()
        raise InputError(f"a process that was at work has ended with exit status {status}; the same command continues")
