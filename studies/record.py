"""How a cell of a study came about: the commits of its commands and the wall seconds of its processes."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from overproof.files import write_atomically
from studies.grid import Cell

ROOT = Path(__file__).parents[1]


def record_of(cell: Cell) -> dict[str, Any]:
    """Return what is known of a cell's processes."""
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


class Record:
    """The clock of a cell's process, added to what earlier ones took."""

    def __init__(self, cell: Cell) -> None:
        self._cell, self._started, self._commit = cell, time.monotonic(), commit()
        self.minutes = 0.0

    def keep(self) -> None:
        """Add the time and the commit to what the cell's folder says."""
        seconds, before = time.monotonic() - self._started, record_of(self._cell)
        self.minutes = seconds / 60
        commits = list(dict.fromkeys([*before["commits"], self._commit]))
        content = {"commits": commits, "wall_seconds": round((before["wall_seconds"] or 0) + seconds, 3)}
        if self._cell.folder.is_dir():  # a training that was refused has none
            write_atomically(_record_file(self._cell), (json.dumps(content) + "\n").encode())


def _record_file(cell: Cell) -> Path:
    return cell.folder / "study.json"
