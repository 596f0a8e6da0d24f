"""A disk that fails at every call in turn, a small disk, and other faults; each ends in a sentence and can go on.

    python -m reliability.faults [--stages train evaluate certify export] [--step 1]

For every stage of a small run, the n-th call that writes (open, write, sync, rename, make a folder) fails with "No
space left on device", for every n; then the same command runs again, and its files are compared with those of an
undisturbed run.
"""

import argparse
import errno
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from reliability.stages import STAGES, Stage, contents, forked, left_over, waited, warm


class _Disk:
    """Counts the calls that write below a folder, and fails at one of them (0: at none), or from it on."""

    def __init__(self, folder: Path, fails_at: int, *, forever: bool) -> None:
        self.folder, self.fails_at, self.forever = folder.resolve(), fails_at, forever
        self.calls = 0

    def asked(self, path: Any) -> None:
        """Count one call about a path (None: about a file that is open); raise where it is the one that fails."""
        if path is not None and not Path(os.fsdecode(path)).resolve().is_relative_to(self.folder):
            return
        self.calls += 1
        if self.fails_at and (self.calls == self.fails_at or (self.forever and self.calls > self.fails_at)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _File:
    """A file whose writing asks the disk first."""

    def __init__(self, file: Any, disk: _Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, body: Any) -> int:
        self._disk.asked(None)
        written: int = self._file.write(body)
        return written

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing_disk(folder: Path, fails_at: int = 0, *, forever: bool = False) -> Iterator[_Disk]:
    """Let the n-th call that writes below a folder fail, as on a full disk; yields what counts them."""
    disk = _Disk(folder, fails_at, forever=forever)
    opened, sync, mkdir, replace = io.open, os.fsync, os.mkdir, os.replace

    def opens(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "r" in mode and "+" not in mode:
            return opened(file, mode, *arguments, **options)
        disk.asked(file)
        made = opened(file, mode, *arguments, **options)
        return _File(made, disk) if Path(os.fsdecode(file)).resolve().is_relative_to(disk.folder) else made

    def syncs(handle: int) -> None:
        disk.asked(None)
        sync(handle)

    def makes(path: Any, *arguments: Any, **options: Any) -> None:
        disk.asked(path)
        mkdir(path, *arguments, **options)

    def replaces(source: Any, target: Any, **options: Any) -> None:
        disk.asked(target)
        replace(source, target, **options)

    with (
        mock.patch.object(io, "open", opens),
        mock.patch.object(os, "fsync", syncs),
        mock.patch.object(os, "mkdir", makes),
        mock.patch.object(os, "replace", replaces),
    ):
        yield disk


def every_call(stage: Stage, before: Path, place: Path, *, step: int = 1) -> tuple[int, list[str]]:
    """Let every ``step``-th call of a stage fail once, and go on after it; return their number and what was wrong."""
    said, whole = place / "said", place / "whole"
    shutil.copytree(before, whole)
    counted = place / "counted"

    def count() -> None:
        with failing_disk(whole) as disk:
            stage.work(whole)
        counted.write_text(str(disk.calls))

    wrong = [] if waited(forked(count, said)) == 0 else [f"undisturbed: {said.read_text()[-2000:]}"]
    wanted = contents(whole, stage)
    tried = range(1, int(counted.read_text()) + 1, step)
    folder = place / "disturbed"
    for number in tried:
        shutil.copytree(before, folder)

        def disturbed(number: int = number) -> None:
            with failing_disk(folder, number, forever=number % 2 == 0):
                stage.work(folder)

        # A call whose failure costs nothing may end well: what cannot be dropped is left.
        if waited(forked(disturbed, said)) not in (0, 2):
            wrong.append(f"call {number}: {said.read_text()[-2000:]}")
        if waited(forked(lambda: stage.work(folder), said)) != 0:
            wrong.append(f"after call {number}: {said.read_text()[-2000:]}")
        found = contents(folder, stage)
        wrong += [f"after call {number}: {name} differs" for name in wanted if found[name] != wanted[name]]
        wrong += [f"after call {number}: left over: {name}" for name in left_over(folder)]
        shutil.rmtree(folder)
    return len(tried), wrong


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="*", default=list(STAGES))
    parser.add_argument("--step", type=int, default=1)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    warm()
    failed = False
    print("| command | calls that failed | wrong |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        before = Path(place) / "run"
        before.mkdir()
        for name, stage in STAGES.items():
            here = Path(place) / name
            here.mkdir()
            if name in wish.stages:
                tried, wrong = every_call(stage, before, here, step=wish.step)
                print(f"| {name} | {tried} | {len(wrong)} |", flush=True)
                for line in wrong:
                    print(f"  {line}", file=sys.stderr)
                failed = failed or bool(wrong)
                before = here / "whole"
            elif any(other in wish.stages for other in list(STAGES)[list(STAGES).index(name) :]):
                waited(forked(lambda: stage.work(before), here / "said"))  # noqa: B023 - it ends before the loop goes on
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())
