import os
import signal
import subprocess
import sys
import time

import pytest

from overproof import locking
from overproof.errors import InputError
from overproof.locking import exclusive, lock_name

HOLD = """
import sys
from pathlib import Path
from overproof.locking import exclusive
with exclusive(Path(sys.argv[1]), "train"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds ``tmp_path/run`` for training, until its input ends."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_made_held_and_left_as_it_was(tmp_path):
    folder = tmp_path / "a" / "run"
    with exclusive(folder, "train"):
        assert [one.name for one in folder.iterdir()] == [lock_name("train")]
    assert list(tmp_path.iterdir()) == []


def test_what_was_put_into_it_stays(tmp_path):
    with exclusive(tmp_path / "run", "train"):
        (tmp_path / "run" / "x").touch()
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["x"]


def test_a_second_process_is_told_who_holds_it(tmp_path, other):
    said = rf"run: process {other.pid} on \S+ is at work in it \(train, since .*\); wait for its end, or choose another"
    with pytest.raises(InputError, match=said), exclusive(tmp_path / "run", "train"):
        pass
    other.communicate()
    with exclusive(tmp_path / "run", "train"):
        pass


def test_other_work_is_not_kept_out(tmp_path, other):
    with exclusive(tmp_path / "run", "evaluate"):
        pass


def test_a_killed_process_holds_nothing(tmp_path, other):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / lock_name("train")).exists()  # it is stale
    with exclusive(tmp_path / "run", "train"):
        pass
    assert not (tmp_path / "run" / lock_name("train")).exists()


def test_within_one_process_as_well(tmp_path):
    again = exclusive(tmp_path, "train")
    with exclusive(tmp_path, "train"), pytest.raises(InputError, match=f"process {os.getpid()} on"), again:
        pass
    with exclusive(tmp_path, "train"):
        pass


def test_it_is_let_go_after_a_failure(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / "run", "train"):
        raise RuntimeError
    assert not (tmp_path / "run").exists()


def test_a_lock_on_a_removed_file_is_none(tmp_path, monkeypatch):
    """Between opening and locking, the one who held it lets go and removes the file."""
    real, file = locking.lock, tmp_path / lock_name("train")
    calls = []

    def slow(handle):
        calls.append(handle)
        if len(calls) == 1:
            file.unlink()
        real(handle)

    monkeypatch.setattr(locking, "lock", slow)
    with exclusive(tmp_path, "train"):
        assert len(calls) == 2
        assert file.exists()


def test_of_many_at_once_one_holds_it_at_a_time(tmp_path):
    code = """
import sys, time
from pathlib import Path
from overproof.errors import InputError
from overproof.locking import exclusive
folder, wins = Path(sys.argv[1]), 0
end = time.monotonic() + 60
while wins < 20 and time.monotonic() < end:
    try:
        with exclusive(folder / "run", "train"):
            (folder / "alone").mkdir()  # raises where another one is here
            (folder / "alone").rmdir()
            wins += 1
    except InputError:
        time.sleep(0.001)
print(wins)
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    begin = time.monotonic()
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["20\n"] * 3, time.monotonic() - begin


def test_where_locks_are_unknown_work_goes_on(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locking.fcntl, "flock", unknown)
    with exclusive(tmp_path, "train"):
        pass


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_what_cannot_be_a_folder_is_a_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"), exclusive(tmp_path / place, "train"):
        pass
