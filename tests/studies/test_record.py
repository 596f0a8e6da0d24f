"""How a cell came about: the commits of its commands, and the time of its processes."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from studies.record import Record, commit, record_of


@dataclass(frozen=True)
class Named:
    folder: Path


def test_times_are_added_and_commits_listed_once(tmp_path):
    cell = Named(tmp_path)
    assert record_of(cell) == {"commits": [], "wall_seconds": None}
    Record(cell).keep()
    first = record_of(cell)
    assert first["commits"] == [commit()]
    assert first["wall_seconds"] >= 0
    record = Record(cell)
    record._started -= 60
    record.keep()
    assert record.minutes >= 1
    assert record_of(cell)["commits"] == [commit()]
    assert record_of(cell)["wall_seconds"] >= first["wall_seconds"] + 60


def test_a_training_that_was_refused_has_no_folder_and_none_is_made(tmp_path):
    cell = Named(tmp_path / "refused")
    Record(cell).keep()
    assert not cell.folder.exists()


def test_the_commit_is_marked_where_more_than_results_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.record.ROOT", tmp_path)
    assert commit() == "unknown"
    files = [tmp_path / "docs" / "results" / "a.json", tmp_path / "code.py"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    files[0].write_text("2")
    assert commit() == clean
    files[1].write_text("2")
    assert commit() == f"{clean}-dirty"
