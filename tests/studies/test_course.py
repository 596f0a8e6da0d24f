"""Running: each process once, in order, through kills, deadlines, failures and company."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from studies.course import Course, commit, record_of
from studies.grid import Cell

# Stands in for overproof: says that it ran, waits, and leaves its file; words: name, seconds, file, log.
PROGRAM = """
import sys, time, pathlib
name, seconds, file, log = sys.argv[1:5]
with open(log, "a") as place:
    place.write(name + "\\n")
time.sleep(float(seconds))
if name.startswith("bad"):
    sys.exit(print("it went wrong") or 2)
pathlib.Path(file).write_text("{}")
"""


@dataclass(frozen=True)
class Named:
    folder: Path
    row: str
    seed: int = 0


@pytest.fixture
def made(tmp_path):
    """Return a maker of courses over cells ``{name: (seconds, needs)}``, and the log of what ran."""
    log = tmp_path / "log"

    def make(plan, **options):
        found = []
        for name, (seconds, needs) in plan.items():
            folder = tmp_path / name
            words = (name, str(seconds), str(folder / "done.json"), str(log))
            needed = tuple(tmp_path / need for need in needs)
            run = Named(tmp_path, name)
            found.append(Cell(run=run, exam="x", folder=folder, words=words, file=folder / "done.json", needs=needed))
        told = []
        program = (sys.executable, "-c", PROGRAM)
        course = Course(found, tmp_path, told.append, lambda: told.append("after"), program=program, **options)
        return course, told

    return make, lambda: log.read_text().split() if log.is_file() else []


def test_cells_run_once_each_and_a_second_call_has_nothing_to_do(made):
    make, ran = made
    plan = {"a": (0, ()), "b": (0, ("a",))}
    course, told = make(plan)
    assert course.run() and not course.failed
    assert ran() == ["a", "b"] and told.count("after") == 2
    assert record_of(course.cells[0])["commits"] == [commit()]
    assert record_of(course.cells[0])["wall_seconds"] > 0
    course, told = make(plan)
    assert course.run() and told == []
    assert ran() == ["a", "b"]


def begin(course):
    process = multiprocessing.get_context("fork").Process(target=course.run)
    process.start()
    return process


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_runner_leaves_its_cell_to_end_and_the_next_one_waits_for_it(made):
    make, ran = made
    plan = {"a": (0, ()), "b": (2, ("a",)), "c": (0, ("b",))}
    process = begin(make(plan)[0])
    wait_for(lambda: ran() == ["a", "b"])
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    course, _ = make(plan)
    assert course.run() and all(cell.done for cell in course.cells)
    assert ran() == ["a", "b", "c"]


def test_two_runners_share_the_work(made):
    make, ran = made
    plan = dict.fromkeys("abcd", (0.3, ()))
    other = begin(make(plan)[0])
    course, _ = make(plan)
    assert course.run()
    other.join()
    assert sorted(ran()) == list("abcd")


def test_when_the_time_is_up_the_process_is_stopped_and_later_started_again(made):
    make, ran = made
    plan = {"a": (0, ()), "b": (60, ())}
    course, _ = make(plan, deadline=time.monotonic() + 3)
    assert not course.run()
    assert [cell.done for cell in course.cells] == [True, False]
    course, _ = make(plan | {"b": (0, ())})
    assert course.run()
    assert ran() == ["a", "b", "b"]


def test_a_failure_is_named_and_only_what_needs_it_is_left_out(made):
    make, ran = made
    course, told = make({"bad": (0, ()), "worse": (0, ("bad",)), "well": (0, ())})
    assert course.run()
    assert [cell.exam and cell.run.row for cell in course.failed] == ["bad", "worse"]
    assert any(line.startswith("failed: bad") and line.endswith("it went wrong") for line in told)
    assert ran() == ["bad", "well"]


def test_the_commit_is_marked_where_more_than_results_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.course.ROOT", tmp_path)
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
