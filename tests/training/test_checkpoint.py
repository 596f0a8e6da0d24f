import io
import os
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from overproof.errors import InputError
from overproof.training.checkpoint import checkpoints, drop_checkpoints, load_checkpoint, save_checkpoint

STATE = {"position": {"epoch": 1, "batch": 7}, "weights": torch.arange(6.0), "best": {}}


def write_as_its_name_says(folder, body, step=1):
    """Write bytes under the name that vouches for them."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{step:09d}-{sha256(body).hexdigest()[:16]}.pt"
    file.write_bytes(body)
    return file


def test_what_was_saved_is_loaded(tmp_path):
    file = save_checkpoint(tmp_path / "deep" / "checkpoint", STATE, 12)
    state, refused = load_checkpoint(file.parent)
    assert refused == []
    assert state["position"] == STATE["position"]
    assert torch.equal(state["weights"], STATE["weights"])
    assert file.name.startswith("000000012-")
    assert file.stem.endswith(sha256(file.read_bytes()).hexdigest()[:16])


def test_it_loads_with_weights_only_and_without_us(tmp_path):
    file = save_checkpoint(tmp_path, STATE, 0)
    assert torch.load(file, weights_only=True)["position"] == STATE["position"]


def test_the_newest_two_are_kept(tmp_path):
    for step in (0, 3, 20, 100):
        save_checkpoint(tmp_path, {**STATE, "step": step}, step)
        assert load_checkpoint(tmp_path)[0]["step"] == step
    assert [file.name.split("-")[0] for file in checkpoints(tmp_path)] == ["000000100", "000000020"]
    assert len(list(tmp_path.iterdir())) == 2


def test_saving_one_step_again_keeps_the_one_before(tmp_path):
    save_checkpoint(tmp_path, {**STATE, "step": 1}, 1)
    for _ in range(3):
        save_checkpoint(tmp_path, {**STATE, "step": 2}, 2)
    assert [file.name.split("-")[0] for file in checkpoints(tmp_path)] == ["000000002", "000000001"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: body + b"\0",
        lambda body: body[:200] + bytes([body[200] ^ 1]) + body[201:],
    ],
    ids=["truncated", "empty", "longer", "one bit"],
)
def test_a_damaged_file_is_refused_and_the_one_before_used(tmp_path, damage):
    save_checkpoint(tmp_path, {**STATE, "step": 1}, 1)
    file = save_checkpoint(tmp_path, {**STATE, "step": 2}, 2)
    file.write_bytes(damage(file.read_bytes()))
    state, refused = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert refused == [f"{file}: truncated or altered, its content does not match its name; refused"]


def foreign():
    buffer = io.BytesIO()
    torch.save({"model": torch.ones(2)}, buffer)
    yield "another state", buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(torch.ones(2), buffer)
    yield "a tensor", buffer.getvalue()
    yield "nothing", b""
    yield "text", b"hello"
    yield "a stop", b"."
    yield "half a zip", b"PK\x03\x04"
    yield "a pickle", pickle.dumps({"position": 1}, protocol=2)
    yield "noise", bytes(range(256))


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in foreign()])
def test_a_foreign_file_is_refused_whatever_it_holds(tmp_path, body):
    save_checkpoint(tmp_path, {**STATE, "step": 1}, 1)
    file = write_as_its_name_says(tmp_path, body, step=2)
    state, refused = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert refused == [f"{file}: not a checkpoint of overproof; refused"]


def test_a_pickle_is_not_run(tmp_path):
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (fired,)

    buffer = io.BytesIO()
    torch.save({"position": {}, "bomb": Bomb()}, buffer)
    write_as_its_name_says(tmp_path / "checkpoint", buffer.getvalue())
    with pytest.raises(InputError, match="not a checkpoint of overproof; refused"):
        load_checkpoint(tmp_path / "checkpoint")
    assert not fired.exists()


def test_none_left_says_what_was_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "checkpoint")
    assert str(caught.value) == f"{tmp_path / 'checkpoint'}: there is no checkpoint to resume from"
    files = [save_checkpoint(tmp_path, {**STATE, "step": step}, step) for step in (1, 2)]
    for file in files:
        file.write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{files[1]}: truncated or altered, its content does not match its name; refused. "
        f"{files[0]}: truncated or altered, its content does not match its name; refused. "
        f"{tmp_path}: there is no checkpoint to resume from"
    )


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path):
    """For real: the process may not write files beyond 20 kB, so the second, larger state does not fit."""
    code = f"""
import resource, torch
from pathlib import Path
from overproof.errors import InputError
from overproof.training.checkpoint import save_checkpoint
folder = Path({str(tmp_path)!r})
save_checkpoint(folder, {{"position": {{}}, "step": 1}}, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(folder, {{"position": {{}}, "step": 2, "weights": torch.zeros(20_000)}}, 2)
except InputError as problem:
    print(problem)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.count("\n") == 1
    assert "cannot be written (File too large); what was there is kept" in found.stdout
    assert len(list(tmp_path.iterdir())) == 1
    state, refused = load_checkpoint(tmp_path)
    assert (state["step"], refused) == (1, [])


def test_what_a_killed_write_left_behind_is_cleared(tmp_path):
    tmp_path.joinpath(".000000001-0123.pt.77.tmp").write_bytes(b"half")
    save_checkpoint(tmp_path, {"position": 1}, 1)
    assert [file.name[:10] for file in tmp_path.iterdir()] == ["000000001-"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    save_checkpoint(tmp_path, STATE, 1)
    pipe = tmp_path / f"000000002-{'0' * 16}.pt"
    os.mkfifo(pipe)
    state, refused = load_checkpoint(tmp_path)
    assert state["position"] == STATE["position"]
    assert refused == [f"{pipe}: a pipe, not a file"]


def test_what_cannot_be_dropped_is_left(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, STATE, 1)
    save_checkpoint(tmp_path, STATE, 2)
    unlink = Path.unlink

    def refused(self, **options):
        if self.suffix == ".pt":
            raise PermissionError(13, "Permission denied")
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", refused)
    save_checkpoint(tmp_path, STATE, 3)
    assert len(checkpoints(tmp_path)) == 3


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        save_checkpoint(tmp_path / "file" / "checkpoint", STATE, 1)


def test_all_are_dropped_with_what_a_kill_left_and_nothing_else(tmp_path):
    folder = tmp_path / "checkpoint"
    assert drop_checkpoints(folder) == 0
    files = [save_checkpoint(folder, {"position": number}, number) for number in (1, 2)]
    (folder / ".3-x.pt.1.tmp").write_bytes(b"half")
    size = sum(file.stat().st_size for file in files) + 4
    (folder / "mine.txt").write_text("precious")
    assert drop_checkpoints(folder) == size
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    drop_checkpoints(folder)
    assert not folder.exists()


def test_of_a_step_there_is_one_file(tmp_path):
    for number in range(8):  # the digest decides which name is the later one
        save_checkpoint(tmp_path, {"position": {"epoch": number}}, 3)
        assert load_checkpoint(tmp_path)[0]["position"]["epoch"] == number
    save_checkpoint(tmp_path, {"position": {"epoch": 9}}, 4)
    assert len(checkpoints(tmp_path)) == 2
