import shutil

import numpy as np
import pytest

from overproof.errors import InputError
from overproof.verbs.summary import Beginning
from overproof.verbs.train import training_events


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def said(recipe, folder, *, dry_run=True, **options):
    """Return the sentences before the first step."""
    events = list(training_events(recipe, folder, device="cpu", dry_run=dry_run, **options))
    assert not dry_run or all(isinstance(event, Beginning) for event in events)
    return [line for event in events if isinstance(event, Beginning) for line in event.lines]


def test_what_is_known_is_said_in_the_order_in_which_it_becomes_known(toy, finished, tmp_path):
    recipe = toy("method={kind: kd}", f"teachers.robust={finished().folder}", "training.epochs=7")
    lines = said(recipe, tmp_path / "run")
    assert lines[0] == "toy: reading digits"
    assert lines[1] == "images: 1,294 train, 143 held out; 8x8, grey, 10 classes"
    assert lines[2].startswith("images per class (train/held out/test): '0' 128/14/36, '1' 131/15/36, ")
    assert lines[3:6] == [
        "student: mlp, 1,210 parameters",
        f"teacher robust: {finished().folder}, 1,210 parameters",
        "method: kd; 7 epochs of 11 batches of 128 images",
    ]
    assert lines[6].startswith("device: cpu (")
    assert lines[6].endswith(", fp32")
    assert lines[7] == (
        f"results go to {tmp_path / 'run'}: recipe.yaml, metrics.jsonl, model.*, last.*, checkpoint/ (until the end)"
    )


def test_companions_are_named_too(toy, finished, tmp_path):
    lines = said(toy("method={kind: peeraid}"), tmp_path / "run")
    assert "companion peer: mlp, 1,210 parameters" in lines


def test_images_without_a_test_split_can_be_learnt_from(toy, tmp_path):
    file, draws = tmp_path / "train.npz", np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(file, x_train=draws.integers(0, 256, (60, 8, 8), dtype=np.uint8), y_train=labels)
    lines = said(toy(f"data={{kind: npz, path: {file}}}", "training.batch=16"), tmp_path / "run")
    assert lines[2].startswith("there is no test part: ")
    assert lines[3] == "images per class (train/held out): '0' 18/2, '1' 18/2, '2' 18/2"


class TestDryRun:
    def test_it_says_what_a_run_says_and_writes_nothing(self, toy, tmp_path):
        dry = said(toy(), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        wet = said(toy(), tmp_path / "run", dry_run=False)
        assert dry == [*wet, "dry run: all of this was read and fits; nothing was written"]

    def test_of_a_run_that_would_go_on(self, toy, finished, tmp_path):
        shutil.copytree(finished().folder, tmp_path / "run")
        before = contents(tmp_path / "run")
        assert "it goes on after epoch 2 of 2" in said(toy(), tmp_path / "run", resume=True)
        assert contents(tmp_path / "run") == before

    @pytest.mark.parametrize(
        ("edits", "sentence"),
        [
            (("method={kind: kd}", "teachers.robust=nowhere"), "teacher 'robust': nowhere: no such run folder"),
            (("data={kind: npz, path: nowhere.npz}",), "nowhere.npz: no such file"),
            (("training.batch=4000",), "a batch of 4000 is larger than the 1294 training images"),
            (("trackers=[wandb]",), "trackers: 'wandb' is not installed"),
            (("student={kind: convnet, kernel: 20, padding: 0}",), "too small for this convnet"),
        ],
    )
    def test_what_a_run_refuses_it_refuses(self, toy, tmp_path, monkeypatch, edits, sentence):
        monkeypatch.setattr("overproof.verbs.tracking.find_spec", lambda name: None)
        with pytest.raises(InputError) as caught:
            said(toy(*edits), tmp_path / "run")
        assert sentence in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_so_it_does_a_place_that_is_taken_or_cannot_be_made(self, toy, finished, tmp_path):
        with pytest.raises(InputError, match="exists already; continue it with --resume"):
            said(toy(), finished().folder)
        (tmp_path / "file").write_text("precious")
        with pytest.raises(InputError, match="is a file, a run needs a folder"):
            said(toy(), tmp_path / "file")
        with pytest.raises(InputError, match="cannot be made or written in"):
            said(toy(), tmp_path / "file" / "run")
