"""onnxruntime on one graph, on the CPU: in bounded time and memory, with one sentence for whatever it raises."""

import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import torch

from overproof.environment import memory, package
from overproof.errors import InputError
from overproof.wording import one_line

T = TypeVar("T")
_SECONDS = 60.0
"""That loading a file may take, and its first run; large networks take a few."""


class Session:
    """A graph with one input and one output, run on numpy arrays with ``threads`` threads (default: as torch).

    ``runtime`` is onnxruntime's own object. Raises ``InputError`` where the graph cannot be loaded.
    """

    def __init__(self, body: bytes, *, where: str, threads: int | None = None) -> None:
        runtime = package("onnxruntime", extra="export", where=where)
        _bound_memory(runtime)
        self.where, self._tried, self._run_options = where, False, runtime.RunOptions()
        self._run_options.log_severity_level = 4
        self.runtime = _load(runtime, body, where, threads)

    def metadata(self) -> Mapping[str, str]:
        """Return what the file says of itself."""
        return dict(self.runtime.get_modelmeta().custom_metadata_map)

    def run(self, values: Any) -> Any:
        """Return what the graph's first output is for an array; the first dimension counts in what is said.

        Raises ``InputError`` where onnxruntime fails or its first run takes too long, ``MemoryError`` where that runs
        out.
        """

        def run() -> Any:
            names = [each.name for each in self.runtime.get_outputs()][:1]
            (output,) = self.runtime.run(names, {self.runtime.get_inputs()[0].name: values}, self._run_options)
            return output

        try:
            if self._tried:
                return run()
            # Of the work that a graph means nothing is known before it has run once.
            output = _in_time(run, lambda: setattr(self._run_options, "terminate", True), f"{self.where}: running it")
        except InputError:
            raise
        except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
            if "Available memory of" in str(problem) or "bad allocation" in str(problem):
                raise MemoryError(f"{self.where}: memory ran out on {len(values)} images") from problem
            raise InputError(
                f"{self.where}: onnxruntime failed on {len(values)} images ({_short(problem)})"
            ) from problem
        self._tried = True
        return output


@cache
def _bound_memory(runtime: Any) -> None:
    """Let all files of this process together take at most half of its memory; a small graph can ask for any amount."""
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    runtime.create_and_register_allocator(place, runtime.OrtArenaCfg({"max_mem": memory() // 2}))


def _in_time(work: Callable[[], T], stop: Callable[[], None], what: str) -> T:
    """Return what the work returns; stop it and raise ``InputError`` where it takes too long.

    It runs beside this thread, which can therefore be interrupted: foreign code in the main thread hears no signal.
    """
    outcome: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as problem:
            raised.append(problem)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        worker.join(_SECONDS)
    finally:
        if worker.is_alive():
            stop()
    if worker.is_alive():
        raise InputError(f"{what} takes more than {_SECONDS:g} seconds, so it was stopped")
    if raised:
        raise raised[0]
    return outcome[0]


def _load(runtime: Any, body: bytes, where: str, threads: int | None) -> Any:
    """Return onnxruntime's session of a graph; raise ``InputError`` where it cannot be run."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well
    options.add_session_config_entry("session.use_env_allocators", "1")

    def load() -> Any:
        # With its fallback it would print that it tries the same once more.
        return runtime.InferenceSession(body, options, providers=["CPUExecutionProvider"], enable_fallback=0)

    try:
        return _in_time(load, lambda: options.set_load_cancellation_flag(True), f"{where}: loading it")
    except InputError:
        raise
    except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
        raise InputError(f"{where}: onnxruntime cannot run this file ({_short(problem)})") from problem


def _short(problem: Exception) -> str:
    return one_line(str(problem), 200)
