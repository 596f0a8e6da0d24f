"""A child process per mutant: forked from one that has imported torch and pytest, so that it starts in no time."""

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
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


def child(work: Callable[[], int], log: Path) -> int:
    """Fork a process that does the work, leaves its status and writes what it says to a file; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        status = work()
    finally:
        sys.stdout.flush()
        os._exit(status)


def pool(jobs: Iterator[tuple[Any, Callable[[], int], float]], folder: Path, workers: int) -> Iterator[tuple[Any, str]]:
    """Do jobs (a name, the work, its limit in seconds) in children; yield each name and how it ended.

    That is the exit status in words, or ``timeout``.
    """
    running: dict[int, tuple[Any, float, Path]] = {}
    free = list(range(workers))
    slots: dict[int, int] = {}
    pending = iter(jobs)
    exhausted = False
    while running or not exhausted:
        while free and not exhausted:
            job = next(pending, None)
            if job is None:
                exhausted = True
                break
            name, work, limit = job
            slot = free.pop()
            log = folder / f"child-{slot}.log"
            pid = child(work, log)
            running[pid], slots[pid] = (name, time.monotonic() + limit, log), slot
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            name, until, _ = running[pid]
            word = None
            if ended:
                word = str(os.waitstatus_to_exitcode(status))
            elif time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                word = "timeout"
            if word is not None:
                del running[pid]
                free.append(slots.pop(pid))
                yield name, word
        time.sleep(0.01)
