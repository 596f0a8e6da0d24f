import os
import subprocess
import sys
from pathlib import Path

import pytest

from overproof.errors import InputError
from overproof.files import check_absent, make_folder, write_atomically, write_folder


def test_writes_and_replaces(tmp_path):
    file = tmp_path / "a.json"
    for body in (b"first", b"", b"third"):
        write_atomically(file, body)
        assert file.read_bytes() == body
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_the_new_file_is_synced_before_it_takes_the_name(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")
    happened = []
    monkeypatch.setattr(os, "fsync", lambda _: happened.append(("sync", file.read_bytes())))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: (happened.append(("replace", b"")), replace(*paths))[1])
    write_atomically(file, b"new")
    # The body, then the name, then the folder.
    assert happened == [("sync", b"old"), ("replace", b""), ("sync", b"new")]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_at_any_moment_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch, moment, problem):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")

    def fail(*_):
        raise problem

    monkeypatch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), fail)
    with pytest.raises(InputError if isinstance(problem, OSError) else KeyboardInterrupt) as caught:
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    if isinstance(problem, OSError):
        assert str(caught.value) == f"{file}: cannot be written (No space left on device); what was there is kept"


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".a.json.{gone.pid}.tmp", f".a.json.{os.getppid()}.tmp", ".a.json.x.tmp", f".b.json.{gone.pid}.tmp"):
        (tmp_path / name).write_bytes(b"half")
    write_atomically(tmp_path / "a.json", b"new")
    assert {one.name for one in tmp_path.iterdir()} == {
        *("a.json", f".a.json.{os.getppid()}.tmp", ".a.json.x.tmp", f".b.json.{gone.pid}.tmp")
    }


def test_a_path_with_a_zero_byte_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / "a\0b", b"")
    with pytest.raises(InputError, match="cannot be made"):
        make_folder(tmp_path / "a\0b")


def test_a_disk_that_is_really_full(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    code = f"""
import resource
from pathlib import Path
from overproof.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomically(Path({str(file)!r}), b"x" * 5000)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        f"overproof.errors.InputError: {file}: cannot be written (File too large); what was there is kept"
    )
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["missing/a.json", "file/a.json", "folder"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / name, b"x")
    assert {one.name for one in tmp_path.iterdir()} == {"file", "folder"}
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_is_made_with_those_above_it_or_the_reason_told(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x: cannot be made \(Not a directory\)$"):
        make_folder(tmp_path / "file" / "x")


class TestFolder:
    FILES = {"a.txt": b"first", "b/c/d.txt": b"second"}  # noqa: RUF012 - not changed

    def test_every_file_by_its_path(self, tmp_path):
        write_folder(tmp_path / "new", self.FILES)
        assert {
            str(file.relative_to(tmp_path / "new")): file.read_bytes() for file in tmp_path.rglob("*.txt")
        } == self.FILES
        assert [one.name for one in tmp_path.iterdir()] == ["new"]

    def test_what_is_there_is_kept(self, tmp_path):
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "kept.txt").write_text("kept")
        for function in (check_absent, lambda folder: write_folder(folder, self.FILES)):
            with pytest.raises(InputError, match=r"old: it is already there; delete it or name another folder$"):
                function(tmp_path / "old")
        assert [file.name for file in tmp_path.rglob("*.txt")] == ["kept.txt"]

    def test_a_failure_on_the_way_leaves_nothing(self, tmp_path):
        with pytest.raises(InputError, match=r"new: cannot be written \("):
            write_folder(tmp_path / "new", {"a": b"", "a/b": b""})
        assert list(tmp_path.iterdir()) == []
