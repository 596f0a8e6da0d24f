"""Running a study: one process per cell, in order, each at most once however often this is stopped and started."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from overproof.files import make_folder, write_atomically
from studies.grid import Cell

ROOT = Path(__file__).parents[1]
_LOOK_SECONDS = 0.2


@dataclass
class Course:
    """The way through a study's cells.

    ``tell`` gets a line for every cell; ``after`` is called when one has ended well. ``deadline`` is a time of
    ``time.monotonic``: what runs then is asked to stop, and continues from its checkpoint the next time.
    """

    cells: Sequence[Cell]
    root: Path
    tell: Callable[[str], None]
    after: Callable[[], None]
    device: str = "auto"
    deadline: float = float("inf")
    program: tuple[str, ...] = (sys.executable, "-m", "overproof")
    failed: list[Cell] = field(default_factory=list)

    def run(self) -> bool:
        """Run what is not done; return whether everything was seen to, that is, whether the time did not run out."""
        waiting, total = [cell for cell in self.cells if not cell.done], len(self.cells)
        while waiting:
            held = []
            for cell in waiting:
                if any(one.folder in cell.needs for one in self.failed):
                    self.failed.append(cell)
                    self.tell(f"left out, because what it needs has failed: {cell.title}")
                    continue
                if not self._ready(cell):
                    held.append(cell)
                    continue
                lock = self._locked(cell)
                if lock is None:
                    held.append(cell)
                    continue
                with lock:
                    # Another process may have ended it between the list and the lock.
                    if cell.done:
                        self.after()
                        continue
                    if time.monotonic() >= self.deadline or not self._process(cell, lock, total):
                        return False
            if held and len(held) == len(waiting):
                if time.monotonic() >= self.deadline:
                    return False
                time.sleep(_LOOK_SECONDS)  # somebody else is at work on all that is left
            waiting = held
        return True

    def _ready(self, cell: Cell) -> bool:
        by_folder = {one.folder: one for one in self.cells}
        return all(by_folder[need].done for need in cell.needs)

    def _locked(self, cell: Cell) -> IO[bytes] | None:
        """Return the cell's lock, or None where a process has it: another study's, or one whose runner was killed."""
        make_folder(self.root / ".locks")
        file = (self.root / ".locks" / f"{cell.run.folder.name}-{cell.folder.name}").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def _process(self, cell: Cell, lock: IO[bytes], total: int) -> bool:
        """Run one cell to its end; return False where the time ran out."""
        number = sum(one.done for one in self.cells) + 1
        self.tell(f"[{number}/{total}] {cell.title} ({cell.folder})")
        record = _Record(cell)
        log = self.root / ".locks" / f"{cell.run.folder.name}-{cell.folder.name}.log"
        command = [*self.program, *cell.words]
        if cell.words[0] != "export":
            command += ["--device", self.device]
        if cell.exam:
            make_folder(cell.folder)
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                # The child holds the lock as well: it is free once both are gone, even where this one is killed.
                pass_fds=(lock.fileno(),),
                env={"OMP_NUM_THREADS": "1", **os.environ},
            )
            try:
                while process.poll() is None and time.monotonic() < self.deadline:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=_LOOK_SECONDS)
            finally:
                stopped = process.poll() is None
                if stopped:
                    process.terminate()
                    process.wait()
                record.keep()
        if stopped and not cell.done:
            return False
        if process.returncode or not cell.done:
            lines = log.read_text(errors="replace").strip().splitlines()
            self.failed.append(cell)
            self.tell(f"failed: {cell.title}: {lines[-1] if lines else f'exit status {process.returncode}'}")
        else:
            self.tell(f"done in {record.minutes:.1f} minutes")
            self.after()
        return True


def record_of(cell: Cell) -> dict[str, Any]:
    """Return what is known of how a cell came about: its commands' commits and the wall seconds of its processes."""
    file = _record_file(cell)
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return {"commits": [], "wall_seconds": None, **found}


def commit() -> str:
    """Return the commit of this checkout, marked where files other than results differ; ``unknown`` outside of one."""

    def git(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)

    found = git("rev-parse", "--short=12", "HEAD")
    if found.returncode:
        return "unknown"
    # Results are what the asking command writes: with them, all but its first would be marked.
    same = git("diff", "--quiet", "HEAD", "--", ".", ":!docs/results", ":!benchmarks/results")
    return found.stdout.strip() + ("-dirty" if same.returncode else "")


class _Record:
    """The clock of a cell's process, added to what earlier ones took."""

    def __init__(self, cell: Cell) -> None:
        self._cell, self._started, self._commit = cell, time.monotonic(), commit()
        self.minutes = 0.0

    def keep(self) -> None:
        seconds, before = time.monotonic() - self._started, record_of(self._cell)
        self.minutes = seconds / 60
        commits = list(dict.fromkeys([*before["commits"], self._commit]))
        content = {"commits": commits, "wall_seconds": round((before["wall_seconds"] or 0) + seconds, 3)}
        if self._cell.folder.is_dir():  # a training that was refused has none
            write_atomically(_record_file(self._cell), (json.dumps(content) + "\n").encode())


def _record_file(cell: Cell) -> Path:
    return cell.folder / "study.json"
