import json
import os

import pytest
import torch
from safetensors.torch import save

from overproof.errors import InputError
from overproof.evaluation import store as module
from overproof.evaluation.store import Store

SETTING = {"network": "abc", "seed": 0, "suite": {"name": "quick", "attacks": [{"eps": "8/255"}]}, "teacher": None}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "evaluation-state"


@pytest.fixture
def store(folder):
    """An open store."""
    fresh = Store(folder, SETTING)
    fresh.open(resume=False)
    return fresh


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last element is the time."""
    times = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: times[-1])
    return times


def state(value=0.0):
    return {
        "survived": torch.tensor([[True, False]]),
        "image": torch.full((3, 2), value).t(),  # not contiguous
        "passes": torch.tensor(3),
        "seconds": torch.tensor([value, 1e-9], dtype=torch.float64),
    }


def refused(store, **options):
    with pytest.raises(InputError) as caught:
        store.open(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_saved_is_loaded_to_the_bit(store, folder):
    store.save(0, state(0.1), whole=True)
    store.save(12, state(0.2), whole=True)
    again = Store(folder, SETTING)
    again.open(resume=True)
    assert equal(again.load(0), state(0.1))
    assert equal(again.load(12), state(0.2))
    assert again.load(1) is None


def test_an_unfinished_evaluation_is_not_run_over(store, folder):
    store.save(0, state(), whole=True)
    assert refused(Store(folder, SETTING), resume=False) == (
        f"{folder}: this was begun and is unfinished; --resume continues it, --overwrite begins again"
    )
    assert equal(store.load(0), state())
    store.open(resume=False, overwrite=True)
    assert store.load(0) is None


def test_resume_with_nothing_there_begins(folder):
    Store(folder, SETTING).open(resume=True)
    assert json.loads((folder / "setting.json").read_text()) == SETTING


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"teacher": "def"}, "another teacher (None, now def)"),
        ({"network": "abd", "seed": 1}, "another network (abc, now abd)"),
        ({"more": 2}, "another more (None, now 2)"),
    ],
)
def test_another_setting_is_refused_and_named(store, folder, change, words):
    assert refused(Store(folder, {**SETTING, **change}), resume=True) == (
        f"{folder}: the unfinished work has {words}; finish it as it was, or begin again with --overwrite"
    )


def test_a_setting_is_compared_as_json_says_it(store, folder):
    Store(folder, {**SETTING, "suite": {"name": "quick", "attacks": ({"eps": "8/255"},)}}).open(resume=True)
    other = {**SETTING, "suite": {"name": "quick", "attacks": [{"eps": "4/255"}]}}
    assert "has another suite (" in refused(Store(folder, other), resume=True)


@pytest.mark.parametrize("body", ["", "{", "[]1", "7", '["seed"]', "[" * 100_000, "1" * 5000])
def test_a_damaged_setting_is_one_sentence(store, folder, body):
    (folder / "setting.json").write_text(body)
    said = refused(Store(folder, SETTING), resume=True)
    assert said.startswith(f"{folder / 'setting.json'}: not ")
    assert said.endswith("; --overwrite begins again")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_block_is_done_again(store, folder, share):
    store.save(0, state(), whole=True)
    (file,) = folder.glob("*.safetensors")
    body = file.read_bytes()
    file.write_bytes(body[: int(share * len(body))])
    assert store.load(0) is None
    store.save(0, state(0.3), whole=True)
    assert equal(store.load(0), state(0.3))


def test_an_altered_block_is_done_again(store, folder):
    """One bit anywhere, in the header or in a number: safetensors itself would take most of them as they are."""
    store.save(0, state(), whole=True)
    (file,) = folder.glob("*.safetensors")
    body = file.read_bytes()
    header = 8 + int.from_bytes(body[:8], "little")
    found = []
    for place in range(len(body)):
        file.write_bytes(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        found.append(store.load(0))
    assert all(each is None for each in found[header:])
    assert all(each is None or equal(each, state()) for each in found)  # of the header, blanks mean nothing


def test_a_block_without_a_digest_is_done_again(store, folder):
    store.save(0, state(), whole=True)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(save({name: value.contiguous() for name, value in state().items()}))
    assert store.load(0) is None


def test_a_crash_while_writing_leaves_the_block_as_it_was(store, folder, monkeypatch):
    store.save(0, state(0.1), whole=True)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        store.save(0, state(0.2), whole=True)
    assert equal(store.load(0), state(0.1))


def test_parts_of_a_block_are_written_now_and_then_and_whole_ones_always(store, clock):
    written = []
    for seconds, whole in ((0, False), (9, False), (11, False), (12, False), (22, False), (23, True), (24, True)):
        clock.append(100.0 + seconds)
        store.save(0, state(float(seconds)), whole=whole)
        found = store.load(0)
        written.append(None if found is None else float(found["seconds"][0]))
    assert written == [None, None, 11, 11, 22, 23, 24]


def test_every_block_has_its_own_time(store, clock):
    store.save(0, state(), whole=False)
    clock.append(111.0)
    store.save(1, state(), whole=False)
    assert store.load(1) is None
    store.save(0, state(), whole=False)
    assert store.load(0) is not None


def test_in_the_end_nothing_is_left(store, folder):
    store.save(0, state(), whole=True)
    store.remove()
    assert not folder.exists()
    store.remove()  # another process may have been faster
    Store(folder, SETTING).open(resume=False)


def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "state"
    assert refused(Store(folder, SETTING), resume=False) == f"{folder}: cannot be made (Not a directory)"
