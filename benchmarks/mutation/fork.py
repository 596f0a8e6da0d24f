"""A child process per mutant: forked from one that has imported torch and pytest, so that it starts in no time."""

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALSO = (
    "pytest",
    "pytest_timeout",
    "hypothesis",
    "hypothesis.strategies",
    "torch._dynamo",
    "scipy.stats",
    "scipy.optimize",
)
# Only the plugin for which pyproject.toml has an option; each of the others takes a second to load.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-W", "ignore::pytest.PytestAssertRewriteWarning")
BROKE = 70  # the status of a child that did not come to its tests
MEMORY = 6 * 2**30  # bytes of data that a child may ask for


def preload(root: Path) -> None:
    """Import whatever the package and its tests import, except what is ours."""
    modules = sorted(
        str(file.relative_to(root / "src"))[:-3].replace("/", ".") for file in root.glob("src/overproof/*/*.py")
    )
    wanted = [
        name for name in modules if name.split(".")[1] in ("attacks", "bounds", "methods", "evaluation", "training")
    ]
    words = f"import sys, importlib\nfor name in {wanted!r}: importlib.import_module(name)\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, env=environment)
    for name in (*said.stdout.split(), *ALSO):
        if not name.startswith(("overproof", "__main__", "tests")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = False  # the tests are rewritten once
    gc.freeze()


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> Any:
        return compile(self._tree, self.path, "exec")


class Changed(importlib.abc.MetaPathFinder):
    """Finds one module in a changed form."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, str(path), tree

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Return the changed module's spec, or None for any other."""
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._tree)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Chosen:
    """A plugin of pytest: runs these tests, in this order."""

    def __init__(self, tests: Iterable[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._rank), key=lambda item: self._rank[item.nodeid]
        )


def passes(tests: list[str]) -> int:
    """Run tests up to the first that fails; return pytest's exit status."""
    import pytest

    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    return int(pytest.main([*files, "-x", *OPTIONS], plugins=[_Chosen(tests)]))


def child(work: Callable[[], int], log: Path, seconds: float) -> int:
    """Fork a process that does the work, leaves its status and writes what it says to a file; return its id.

    It may not use the CPU for longer than so many seconds, whether its parent lives or not.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = BROKE
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
        # A place of its own for files: the one that sessions of pytest share is swept by each of them.
        os.environ["PYTEST_ADDOPTS"] = f"--basetemp={log.with_suffix('')}"
        status = work()
    finally:
        sys.stdout.flush()
        os._exit(status)


@dataclass
class _Child:
    name: Any
    slot: int
    until: float


def pool(jobs: Iterator[tuple[Any, Callable[[], int], float]], folder: Path, workers: int) -> Iterator[tuple[Any, str]]:
    """Do jobs (a name, the work, its limit in seconds) in children; yield each name and how it ended.

    That is the exit status in words, or ``timeout``.
    """
    running: dict[int, _Child] = {}
    free = list(range(workers))
    try:
        while True:
            while free and (job := next(jobs, None)):
                name, work, limit = job
                slot = free.pop()
                pid = child(work, folder / f"child-{slot}.log", limit)
                running[pid] = _Child(name, slot, time.monotonic() + limit)
            if not running:
                return
            for pid, one in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                late = time.monotonic() > one.until
                if not ended and late:
                    _kill(pid)
                if ended or late:
                    del running[pid]
                    free.append(one.slot)
                    yield one.name, str(os.waitstatus_to_exitcode(status)) if ended else "timeout"
            time.sleep(0.01)
    finally:
        for pid in running:
            _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
