import shutil

import numpy as np
import pytest
import torch

from overproof.commands.train import TrainingEvent, iter_train, train
from overproof.errors import InputError
from overproof.runs.summary import Beginning


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def said(recipe, folder, *, dry_run=True, **options):
    """Return the sentences before the first step."""
    events = list(iter_train(recipe, folder, device="cpu", dry_run=dry_run, **options))
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
    assert "auxiliary model peer: mlp, 1,210 parameters" in lines


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
        monkeypatch.setattr("overproof.runs.trackers.find_spec", lambda name: None)
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


class TestMixedImages:
    @pytest.mark.parametrize("mix", ["mixup", "cutmix"])
    def test_a_method_that_reads_classes_is_refused_before_anything_is_read(self, toy, tmp_path, mix):
        recipe = toy("data={kind: npz, path: nowhere.npz}", "method={kind: mart}", f"augment.{mix}=0.2")
        with pytest.raises(InputError) as caught:
            said(recipe, tmp_path / "run")
        assert str(caught.value) == (
            "method 'mart' reads labels as classes, and augment.mixup and augment.cutmix make them shares of classes; "
            "set both to 0 or choose another method"
        )

    def test_a_cache_of_whole_images_is_refused(self, toy, finished):
        with pytest.raises(InputError, match=r"mixup and cutmix show mixed ones; set augment\.mixup and augment"):
            toy("augment={flip: true, bank: 2, mixup: 1}", "training.teacher_cache=true")

    @pytest.mark.parametrize("method", ["natural", "pgd_at", "trades", "kd", "rslad", "free_at"])
    def test_others_learn_from_them(self, toy, finished, tmp_path, method):
        taught = (f"teachers.robust={finished().folder}",) if method in ("kd", "rslad") else ()
        edits = (f"method={{kind: {method}}}", *taught, "augment={mixup: 0.4, cutmix: 1}", "training.batch=256")
        short = () if method in ("natural", "kd", "free_at") else ("method.inner.steps=1",)
        run = train(toy(*edits, *short), tmp_path / "run", device="cpu")
        terms = [record["terms"] for record in run.metrics()]
        assert sum(terms[1].values()) < sum(terms[0].values())  # of the second epoch and of the first


def test_rare_classes_are_shown_as_often(toy, tmp_path, monkeypatch):
    draws, file = np.random.default_rng(0), tmp_path / "unequal.npz"
    labels = np.array([0] * 60 + [1] * 12 + [2] * 8)
    np.savez(file, x_train=draws.integers(0, 256, (80, 8, 8), dtype=np.uint8), y_train=labels)
    seen = []
    recipe = toy(f"data={{kind: npz, path: {file}}}", "training.batch=18", "training.balance=1", "training.epochs=1")
    train(
        recipe, tmp_path / "before", device="cpu"
    )  # the method's passes are counted once in a process, by another loop
    monkeypatch.setattr(
        "overproof.training.loop.Loop._learn", lambda loop, batch: seen.append(batch.y.bincount(minlength=3))
    )
    next(event for event in iter_train(recipe, tmp_path / "run", device="cpu") if isinstance(event, TrainingEvent))
    assert sum(seen).tolist() == [24, 24, 24]


def test_how_much_they_are_balanced_is_from_none_to_whole(toy):
    for value in (-0.1, 1.1):
        with pytest.raises(InputError, match=r"training: balance is from 0 \(as the data are\) to 1"):
            toy(f"training.balance={value}")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Return a file of 300 images as generated ones are published; their labels are those of noise."""
    draws = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("extra") / "300.npz"
    np.savez(file, image=draws.integers(0, 256, (300, 8, 8), dtype=np.uint8), label=draws.integers(0, 10, 300))
    return file


class TestExtraImages:
    def mixed(self, file, labels="theirs", fraction=0.5):
        return f"data.extra={{source: {{kind: npz, path: {file}}}, fraction: {fraction}, labels: {labels}}}"

    def test_they_are_said_and_change_the_run_but_not_its_length(self, toy, finished, generated, tmp_path):
        run = train(toy(self.mixed(generated)), tmp_path / "run", device="cpu")
        lines = said(toy(self.mixed(generated)), tmp_path / "other")
        assert "extra images: 300: 300, 0.5 of every batch, labels: theirs" in lines
        assert any(line.startswith("method: natural; 2 epochs of 11 batches of 128 images") for line in lines)
        alone = finished()
        assert len(run.metrics()) == len(alone.metrics())
        assert run.description()["digest"] != alone.description()["digest"]

    @pytest.mark.parametrize(
        ("method", "labels"),
        [("rslad", "none"), ("adaad", "none"), ("rslad", "teacher"), ("ard", "teacher"), ("ard", "theirs")],
    )
    def test_methods_learn_from_them(self, toy, finished, generated, tmp_path, method, labels):
        edits = (f"method={{kind: {method}, inner: {{steps: 1}}}}", f"teachers.robust={finished().folder}")
        recipe = toy(*edits, "training.epochs=1", self.mixed(generated, labels))
        assert len(train(recipe, tmp_path / "run", device="cpu").metrics()) == 1

    def test_images_without_a_label_have_the_teachers(self, toy, finished, generated, tmp_path):
        """A natural student of nothing but the teacher's labels on noise agrees with it there more than with chance."""
        teacher = finished("training.epochs=6")
        edits = ("method={kind: kd, alpha: 0.0}", f"teachers.robust={teacher.folder}", "training.epochs=30")
        run = train(toy(*edits, self.mixed(generated, "teacher", 0.9)), tmp_path / "run", device="cpu")
        images = torch.from_numpy(np.load(generated)["image"])[:, None].float() / 255
        with torch.no_grad():
            student, taught = (one.model()[0].eval()(images).argmax(dim=1) for one in (run, teacher))
        # 300 images: chance agreement of the most frequent class stays far below.
        assert (student == taught).float().mean() > taught.bincount().max() / 300 + 0.2

    def test_a_run_that_was_interrupted_goes_on_to_the_bit(self, toy, generated, tmp_path):
        recipe = toy(self.mixed(generated))
        whole = train(recipe, tmp_path / "whole", device="cpu")
        for event in iter_train(recipe, tmp_path / "cut", device="cpu"):
            if isinstance(event, TrainingEvent) and event.progress.epoch == 1:
                break
        again = train(recipe, tmp_path / "cut", device="cpu", resume=True)
        assert again.description()["digest"] == whole.description()["digest"]

    @pytest.mark.parametrize(
        ("method", "labels", "sentence"),
        [
            ("natural", "none", "method 'natural' needs a label of every image, and data.extra.labels: none gives"),
            ("pgd_at", "none", "method 'pgd_at' needs a label of every image"),
            ("natural", "teacher", "data.extra.labels: teacher: method 'natural' has no teacher"),
        ],
    )
    def test_labels_that_a_method_needs_are_asked_for(self, toy, generated, tmp_path, method, labels, sentence):
        with pytest.raises(InputError, match=sentence):
            train(toy(f"method={{kind: {method}}}", self.mixed(generated, labels)), tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    def test_mixed_labels_need_labels(self, toy, finished, generated, tmp_path):
        edits = ("method={kind: kd}", f"teachers.robust={finished().folder}", "augment.cutmix=1")
        with pytest.raises(InputError, match="mix labels, and extra images have none of their own"):
            train(toy(*edits, self.mixed(generated, "teacher")), tmp_path / "run", device="cpu")

    @pytest.mark.parametrize("fraction", [0, 1])
    def test_a_share_of_nothing_or_all_is_refused(self, toy, generated, fraction):
        with pytest.raises(InputError, match=r"recipe.data.extra: fraction is the share of extra images"):
            toy(self.mixed(generated, fraction=fraction))
