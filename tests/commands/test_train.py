import json
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from overproof.commands import train as verb
from overproof.commands.train import (
    Validation,
    default_folder,
    has_collapsed,
    train,
    training,
    validate,
)
from overproof.data.images import hold_out, stratified_subset
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.recipe import dump, parse
from overproof.runs.folder import Run, load
from overproof.runs.networks import load_teacher
from overproof.training import optimisation, pace
from overproof.training.checkpoint import checkpoints, load_checkpoint


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        train(*arguments, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without_seconds(records):
    return [{key: value for key, value in record.items() if "seconds" not in key} for record in records]


def copied(run, folder):
    shutil.copytree(run.folder, folder)
    return Run(folder)


class TestRunFolder:
    def test_is_complete(self, finished, toy):
        run = finished()
        assert {file.name for file in run.folder.iterdir()} == {
            "recipe.yaml",
            "metrics.jsonl",
            "model.safetensors",
            "model.json",
            "last.safetensors",
            "last.json",
            "checkpoint",
        }
        assert (run.folder / "recipe.yaml").read_text() == dump(toy())
        assert run.recipe() == toy()

    def test_model_json_says_what_the_weights_are(self, finished, toy):
        run = finished()
        description = json.loads((run.folder / "model.json").read_text())
        weights = run.folder / "model.safetensors"
        assert description["digest"] == sha256(weights.read_bytes()).hexdigest()
        assert description["recipe_digest"] == toy().digest
        assert description["architecture"] == {"kind": "mlp", "hidden": [16]}
        assert description["signature"] == {"channels": 1, "height": 8, "width": 8, "classes": 10}
        assert description["classes"] == list("0123456789")
        assert description["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
        assert description["precision"] == "fp32"
        assert set(description["versions"]) == {"overproof", "torch", "python"}
        assert description["selected_on"] == "held-out part of the training split"
        assert set(load_file(weights)) >= {"backbone.fc1.weight", "backbone.fc2.bias"}

    def test_one_record_per_epoch(self, finished):
        records = finished().metrics()
        assert [record["epoch"] for record in records] == [1, 2]
        for record in records:
            assert set(record["terms"]) == {"label"}
            assert record["validation"]["epoch"] == record["epoch"]
            assert record["seconds"] > 0
            assert record["processor_seconds"] > 0
            assert record["precision"] == "fp32"
        # 1293 images in batches of 128: eleven, of one forward and one backward each.
        assert records[0]["passes"] == {"student": {"forward": 11, "backward": 11}}
        assert records[1]["terms"]["label"] < records[0]["terms"]["label"]

    def test_the_validation_is_that_of_the_saved_network_on_the_held_out_part(self, finished, toy):
        run, recipe = finished(), toy()
        _, held = hold_out(recipe.data.load("train"), 0.1, 0)
        part = held.at(stratified_subset(held, 40, 0))
        for name in ("model", "last"):
            network, description = run.model(name)
            found = validate(network, part, recipe, description["validation"]["epoch"], "fp32")
            assert vars(found) == description["validation"]
        predictions = run.model("last")[0](part.images.float() / 255).argmax(dim=1)
        assert run.metrics()[-1]["validation"]["clean"] == pytest.approx(
            float((predictions == part.labels).float().mean())
        )

    def test_the_selected_network_is_the_best_validated_epoch(self, toy, tmp_path):
        run = train(toy("training.epochs=5", "training.optimiser.lr=0.3"), tmp_path / "run", device="cpu")
        records = run.metrics()
        found = [(record["validation"]["robust"], record["validation"]["clean"]) for record in records]
        best = found.index(max(found)) + 1  # the earliest of equals
        assert run.model()[1]["validation"]["epoch"] == best
        assert records[-1]["best_epoch"] == best
        assert run.model("last")[1]["validation"]["epoch"] == 5
        if best != 5:
            assert run.model()[1]["digest"] != run.model("last")[1]["digest"]

    def test_validation_every_so_often_and_at_the_end(self, toy, tmp_path):
        run = train(toy("training.epochs=5", "selection.every=2"), tmp_path / "run", device="cpu")
        assert [bool(record["validation"]) for record in run.metrics()] == [False, True, False, True, True]
        assert [record["best_epoch"] is None for record in run.metrics()] == [True, False, False, False, False]

    def test_the_averaged_weights_are_the_ones_saved(self, toy, tmp_path):
        recipe = toy("training.averaging={kind: ema, decay: 0.9}")
        run = train(recipe, tmp_path / "run", device="cpu", keep_checkpoint=True)
        state, _ = load_checkpoint(run.checkpoints)
        last = run.model("last")[0].state_dict()
        for name, value in state["average"].items():
            if name != "count":
                assert torch.equal(last[name], value)
                assert not torch.equal(last[name], state["student"][name])

    def test_load_gives_the_network_silent_and_on_the_cpu(self, finished):
        network = load(finished().folder)
        assert not network.training
        assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)

    def test_the_seed_decides_everything(self, finished, toy, tmp_path):
        again = train(toy(), tmp_path / "again", device="cpu")
        assert again.model()[1]["digest"] == finished().model()[1]["digest"]
        assert without_seconds(again.metrics()) == without_seconds(finished().metrics())
        other = train(toy("seed=1"), tmp_path / "other", device="cpu")
        assert other.model()[1]["digest"] != finished().model()[1]["digest"]

    def test_normalisation_and_precision_are_kept(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr(optimisation, "computes_bf16", lambda device: True)
        run = train(
            toy("training.epochs=1", "training.precision=bf16", "normalise={mean: [0.5], std: [0.25]}"),
            tmp_path / "run",
            device="cpu",
        )
        network, description = run.model()
        assert description["normalisation"] == {"mean": [0.5], "std": [0.25]}
        assert description["precision"] == run.metrics()[0]["precision"] == "bf16"
        assert float(network.normalised(torch.ones(1, 1, 8, 8)).mean()) == 2.0

    def test_a_precision_that_the_device_lacks_falls_back_and_says_so_once(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr(optimisation, "computes_bf16", lambda device: False)
        recipe = toy("training.precision=bf16", "training.teacher_precision=bf16")
        said = [one.warnings for one in training(recipe, tmp_path / "run", device="cpu")]
        assert len(said) == 2 and said[1] == ()
        assert [sentence.partition(" computes ")[2] for sentence in said[0]] == ["no bf16: fp32 is used"]
        assert [record["precision"] for record in Run(tmp_path / "run").metrics()] == ["fp32"] * 2
        assert recipe.training.on(torch.device("cpu")).teacher_precision == "fp32"


class TestForms:
    def test_by_value_file_or_name(self, toy, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "r.yaml"
        file.write_text(dump(toy("training.epochs=1", "name=mine")))
        assert train(file, device="cpu").folder == default_folder(toy("name=mine"))
        assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
        assert refused("digits/nothing").startswith("no recipe file 'digits/nothing', and no shipped recipe")

    def test_news_come_after_the_disk(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        run = Run(tmp_path / "run")
        news = []
        for one in training(toy("training.checkpoint_minutes=0"), run.folder, device="cpu"):
            news.append(one)
            state, refusals = load_checkpoint(run.checkpoints)
            assert refusals == []
            assert (state["position"]["epoch"], state["position"]["batch"]) == one.progress[:2]
            assert len(run.metrics()) == one.progress.epoch
            assert run.folder.joinpath("model.json").exists() == (one.best is not None)
            assert (one.validation is not None) == one.progress.whole
        assert [one.progress[:2] for one in news] == [divmod(batch, 11) for batch in range(1, 23)]
        assert {one.epochs for one in news} == {2}
        # 1294 images in batches of 128: the last has 14.
        assert [one.images for one in news[9:12]] == [1280, 1294, 1294 + 128]
        assert {one.total for one in news} == {2 * 1294}

    def test_a_checkpoint_is_not_written_more_often_than_asked(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        run = Run(tmp_path / "run")
        for one in training(toy("training.checkpoint_minutes=10"), run.folder, device="cpu"):
            state, _ = load_checkpoint(run.checkpoints)
            assert state["position"]["batch"] == 0
            assert state["position"]["epoch"] == one.progress.epoch


class TestTeachers:
    EDITS = ("method={kind: kd, temperature: 2}",)

    def teacher_of(self, finished, *edits):
        return str(finished(*edits).folder)

    def test_a_student_learns_from_a_run(self, toy, finished, tmp_path):
        teacher = self.teacher_of(finished)
        before = {file: file.read_bytes() for file in finished().folder.glob("*.*")}
        run = train(toy(*self.EDITS, f"teachers.robust={teacher}"), tmp_path / "run", device="cpu")
        assert set(run.metrics()[0]["terms"]) == {"distil", "label"}
        assert run.metrics()[0]["passes"]["robust"] == {"forward": 11, "backward": 0}
        assert {file: file.read_bytes() for file in finished().folder.glob("*.*")} == before

    @pytest.mark.parametrize("method", ["{kind: faithful}", "{kind: awp, base: {kind: faithful}}"])
    def test_a_teacher_that_is_bounded_cannot_be_sharded(self, finished, toy, tmp_path, method):
        recipe = toy(*self.EDITS, f"method={method}", f"teachers.robust={self.teacher_of(finished)}")
        sentence = refused(recipe, tmp_path / "run", shard_teachers=True)
        assert "bounds its teacher, which takes whole weights; leave --shard-teachers out" in sentence
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", ["{kind: faithful, teacher_bounds: clean}", "{kind: igdm}"])
    def test_one_that_is_asked_can_and_a_single_process_keeps_it_whole(self, finished, toy, tmp_path, method):
        recipe = toy(*self.EDITS, f"method={method}", f"teachers.robust={self.teacher_of(finished)}")
        whole, same = (
            train(recipe, tmp_path / f"{shards}", device="cpu", shard_teachers=shards) for shards in (False, True)
        )
        assert whole.model()[1]["digest"] == same.model()[1]["digest"]

    def test_is_silent_by_construction(self, finished):
        teacher = load_teacher("robust", self.teacher_of(finished), Digits().load("train"))
        assert not any(value.requires_grad for value in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
        assert not teacher(torch.rand(2, 1, 8, 8)).requires_grad

    @pytest.mark.parametrize(("side", "classes"), [(8, 3), (6, 10)], ids=["classes", "size"])
    def test_for_other_classes_or_sizes_is_refused_naming_both(self, toy, finished, squares, tmp_path, side, classes):
        file = squares(side=side, classes=classes)
        teacher = self.teacher_of(finished, f"data={{kind: npz, path: {file}}}", "training.batch=16")
        sentence = refused(toy(*self.EDITS, f"teachers.robust={teacher}"), tmp_path / "run")
        assert sentence == (
            f"teacher 'robust': {teacher}: it is for 1x{side}x{side}, {classes} classes, the data are 1x8x8, 10 classes"
        )
        assert not (tmp_path / "run").exists()

    def test_on_other_class_names_is_refused_naming_the_first(self, finished):
        images, path = Digits().load("train"), self.teacher_of(finished)
        swapped = replace(images, classes=("0", "1", "3", "2", *images.classes[4:]))
        with pytest.raises(InputError) as caught:
            load_teacher("robust", path, swapped)
        assert str(caught.value) == (
            f"teacher 'robust' ({path}) was trained on other classes: its 2 is '2', here it is '3'"
        )

    def test_that_cannot_be_read_is_named(self, toy, finished, tmp_path):
        def try_with(path):
            return refused(toy(*self.EDITS, f"teachers.robust={path}"), tmp_path / "run")

        assert try_with(tmp_path / "nowhere") == f"teacher 'robust': {tmp_path / 'nowhere'}: no such run folder"
        broken = copied(finished(), tmp_path / "broken").folder
        weights = broken / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        assert (
            try_with(broken)
            == f"teacher 'robust': {weights}: damaged or exchanged; its digest is not the one in model.json"
        )
        weights.unlink()
        assert (
            try_with(broken) == f"teacher 'robust': {broken}: no model.safetensors here, so this is not a finished run"
        )
        weights.write_bytes(whole)
        (broken / "model.json").write_text("{")
        assert try_with(broken).startswith(
            f"teacher 'robust': {broken / 'model.json'}: not a model description of overproof ("
        )
        assert not (tmp_path / "run").exists()


class TestRefusals:
    def test_an_existing_folder_without_resume(self, toy, finished):
        folder = finished().folder
        before = {file: file.read_bytes() for file in folder.glob("*.*")}
        assert refused(toy(), folder) == (
            f"{folder}: exists already; continue it with --resume or choose another --out"
        )
        assert {file: file.read_bytes() for file in folder.glob("*.*")} == before

    def test_somebody_elses_folder_is_safe(self, toy, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        assert refused(toy(), tmp_path).endswith("exists already; continue it with --resume or choose another --out")

    def test_an_empty_folder_will_do(self, toy, tmp_path):
        assert train(toy("training.epochs=1"), tmp_path, device="cpu").metrics()

    @pytest.mark.parametrize("resume", [True, False])
    def test_a_file_in_the_way(self, toy, tmp_path, resume):
        file = tmp_path / "file"
        file.write_text("precious")
        assert refused(toy(), file, resume=resume) == f"{file}: is a file, a run needs a folder; choose another --out"
        assert refused(toy(), file / "run", resume=resume) == f"{file / 'run'}: cannot be made (Not a directory)"
        assert file.read_text() == "precious"

    def test_another_recipe_is_refused_with_the_differences(self, toy, finished):
        folder = finished().folder
        assert refused(toy("seed=4", "training.epochs=3"), folder, resume=True) == (
            f"{folder}: the recipe is not the one this run was started with (seed: 0 -> 4; training.epochs: 2 -> 3); "
            "use the old recipe or another --out"
        )

    @pytest.mark.parametrize(
        ("y_train", "sentence"),
        [
            ([0] * 40, "bad: every training image has the same label, so there is nothing to learn"),
            ([0, 2] * 20, "bad: no training image of class '1'"),
            ([0, 1] * 5, "bad: a batch of 16 is larger than the 8 training images"),
        ],
        ids=["one class", "absent class", "small"],
    )
    def test_data_that_cannot_be_learnt_from(self, toy, tmp_path, y_train, sentence):
        file = tmp_path / "bad.npz"
        images = np.zeros((len(y_train), 8, 8), np.uint8)
        np.savez(file, x_train=images, y_train=np.array(y_train), x_test=images, y_test=np.array(y_train))
        recipe = toy(f"data={{kind: npz, path: {file}}}", "training.batch=16")
        assert refused(recipe, tmp_path / "run") == sentence
        assert not (tmp_path / "run").exists()

    def test_a_network_that_does_not_fit_the_images(self, toy, tmp_path):
        sentence = refused(toy("student={kind: convnet, kernel: 20, padding: 0}"), tmp_path / "run")
        assert sentence.startswith("convnet for 1x8x8, 10 classes: an input of 8x8 is too small for this convnet")
        sentence = refused(toy("normalise={mean: [0.5, 0.5], std: [1, 1]}"), tmp_path / "run")
        assert sentence.startswith("mlp for 1x8x8, 10 classes: mean and std need one number per channel (1)")
        assert not (tmp_path / "run").exists()

    def test_a_device_that_is_not_here(self, toy, tmp_path):
        with pytest.raises(InputError, match="device 'abacus' is not available here; use auto or cpu"):
            train(toy(), tmp_path / "run", device="abacus")
        assert not (tmp_path / "run").exists()

    def test_what_explodes_is_named_and_the_last_good_state_kept(self, toy, tmp_path):
        run = Run(tmp_path / "run")
        sentence = refused(toy("training.optimiser={kind: sgd, lr: 1.0e+30}"), run.folder)
        assert sentence.startswith("term 'label' is not finite in batch ")
        assert " of epoch 0; training stopped, and the last good checkpoint is kept" in sentence
        state, refusals = load_checkpoint(run.checkpoints)
        assert (state["position"], refusals) == ({"epoch": 0, "batch": 0}, [])
        assert all(value.isfinite().all() for value in state["student"].values())


class TestResume:
    def stop_after(self, toy, folder, count, *edits):
        news = training(toy(*edits), folder, device="cpu")
        for _ in range(count):
            next(news)
        news.close()
        return Run(folder)

    @pytest.mark.parametrize("stop", [1, 4, 10, 11, 12, 21])
    def test_from_any_look_on_is_bit_equal(self, toy, finished, tmp_path, monkeypatch, stop):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        edits = ("training.checkpoint_minutes=0", "augment.crop=1", "training.averaging={kind: ema, decay: 0.9}")
        whole = finished(*edits)
        run = self.stop_after(toy, tmp_path / "run", stop, *edits)
        torch.manual_seed(1000 + stop)
        train(toy(*edits), run.folder, resume=True, device="cpu")
        for name in ("model", "last"):
            assert run.model(name)[1] == whole.model(name)[1]
        assert without_seconds(run.metrics()) == without_seconds(whole.metrics())

    def test_of_a_finished_run_changes_nothing(self, toy, finished, tmp_path):
        run = copied(finished(), tmp_path / "run")
        before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
        train(toy(), run.folder, resume=True, device="cpu")
        assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == before

    def test_of_nothing_is_a_start(self, toy, finished, tmp_path):
        run = train(toy(), tmp_path / "run", resume=True, device="cpu")
        assert run.model()[1] == finished().model()[1]

    def test_a_stop_before_the_recipe_was_written_is_no_dead_end(self, toy, finished, tmp_path, monkeypatch):
        def interrupted(path, body):
            raise KeyboardInterrupt

        monkeypatch.setattr(verb, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(toy(), tmp_path / "run", device="cpu")
        monkeypatch.undo()
        assert refused(toy(), tmp_path / "run").endswith(
            "exists already; continue it with --resume or choose another --out"
        )
        run = train(toy(), tmp_path / "run", resume=True, device="cpu")
        assert run.model()[1] == finished().model()[1]

    def test_a_crash_between_metrics_and_checkpoint_counts_no_epoch_twice(self, toy, finished, tmp_path):
        run = copied(finished(), tmp_path / "run")
        newest, _ = checkpoints(run.checkpoints)
        newest.unlink()  # the metrics know of epoch 2, the checkpoint does not
        train(toy(), run.folder, resume=True, device="cpu")
        assert [record["epoch"] for record in run.metrics()] == [1, 2]
        assert without_seconds(run.metrics()) == without_seconds(finished().metrics())
        assert run.model("last")[1] == finished().model("last")[1]

    def test_a_damaged_checkpoint_is_told_and_the_one_before_used(self, toy, finished, tmp_path):
        run = copied(finished(), tmp_path / "run")
        newest, _ = checkpoints(run.checkpoints)
        newest.write_bytes(newest.read_bytes()[:-10])
        news = list(training(toy(), run.folder, resume=True, device="cpu"))
        assert news[0].warnings == (
            f"{newest}: truncated or altered, its content does not match its name; refused; the one before is used",
        )
        assert run.model("last")[1] == finished().model("last")[1]

    def test_without_a_checkpoint_there_is_one_sentence(self, toy, finished, tmp_path):
        run = copied(finished(), tmp_path / "run")
        for file in (*checkpoints(run.checkpoints), run.folder / "last.json"):
            file.unlink()
        assert refused(toy(), run.folder, resume=True) == f"{run.checkpoints}: there is no checkpoint to resume from"


class TestStreaming:
    EDITS = ("augment={crop: 1, flip: true}", "training.batch=8", "selection.fraction=0.3")

    @pytest.fixture
    def folder(self, tmp_path):
        draws = np.random.default_rng(0)
        for number in range(40):
            file = tmp_path / "data" / "train" / f"class-{number % 2}" / f"{number:02d}.jpeg"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = draws.integers(0, 100, (8, 8, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
            Image.fromarray(picture).save(file)
        return tmp_path / "data"

    def edits(self, folder, mode):
        return (f"data={{kind: folder, path: {folder}}}", f"loading={{mode: {mode}, workers: 1}}", *self.EDITS)

    def test_a_streamed_run_is_the_resident_one_to_the_bit(self, toy, folder, tmp_path):
        averaging = "training.averaging={kind: swa, start: 0}"  # its statistics are measured on the stream
        runs = [
            train(toy(*self.edits(folder, mode), averaging), tmp_path / mode, device="cpu")
            for mode in ("resident", "streamed", "auto")
        ]
        assert len({run.model(name)[1]["digest"] for run in runs for name in ("last",)}) == 1
        assert without_seconds(runs[0].metrics()) == without_seconds(runs[1].metrics())
        assert runs[0].metrics()[0]["passes"]["student"]["forward"] == 4  # 28 of 40 images in batches of 8

    @pytest.mark.parametrize("mode", ["streamed", "resident"])
    def test_and_resumes_at_an_epoch_boundary_to_the_bit_in_either_way(self, toy, folder, tmp_path, mode):
        recipe = toy(*self.edits(folder, "streamed"), "training.epochs=3")
        whole = train(recipe, tmp_path / "whole", device="cpu")
        news = training(recipe, tmp_path / "run", device="cpu")
        next(news)
        news.close()
        other = toy(*self.edits(folder, mode), "training.epochs=3")
        run = train(other, tmp_path / "run", resume=True, device="cpu")
        assert run.model("last")[1]["digest"] == whole.model("last")[1]["digest"]
        assert without_seconds(run.metrics()) == without_seconds(whole.metrics())

    @pytest.mark.parametrize("mode", ["streamed", "resident"])
    def test_a_set_that_changed_since_is_refused_and_nothing_is_lost(self, toy, folder, tmp_path, mode):
        recipe = toy(*self.edits(folder, mode))
        train(recipe, tmp_path / "run", device="cpu", keep_checkpoint=True)
        before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
        file = folder / "train" / "class-1" / "01.jpeg"
        file.write_bytes(file.read_bytes() + b" ")
        (folder / "train" / "class-0" / "99.jpeg").write_bytes(file.read_bytes())
        assert refused(recipe, tmp_path / "run", resume=True) == (
            f"{tmp_path / 'run'}: the training images are not those this run was started with; restore them"
        )
        assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before

    @pytest.mark.parametrize("mode", ["streamed", "resident"])
    def test_a_bad_file_is_one_sentence(self, toy, folder, tmp_path, mode):
        (folder / "train" / "class-1" / "01.jpeg").write_bytes(b"no image")
        sentence = refused(toy(*self.edits(folder, mode)), tmp_path / "run")
        assert sentence.startswith(
            f"{folder / 'train'}: {folder / 'train' / 'class-1' / '01.jpeg'} cannot be decoded ("
        )
        assert not (tmp_path / "run").exists()


def test_what_a_teacher_remembers_is_in_the_metrics(toy, finished, tmp_path):
    edits = ("method={kind: kd}", f"teachers.robust={finished().folder}", "augment={crop: 1, bank: 2}")
    run = train(toy(*edits, "training.teacher_cache=true", "training.epochs=3"), tmp_path / "run", device="cpu")
    page = 1294 * 10 * 4  # float32 logits
    found = [record["teacher_cache"]["robust"] for record in run.metrics()]
    assert [one["hit_rate"] for one in found] == pytest.approx([0, 0, 1 / 3])
    assert [one["bytes"] for one in found] == [page, 2 * page, 2 * page]
    assert "teacher_cache" not in finished().metrics()[0]


def test_a_search_that_grows_is_counted_as_it_was(toy, tmp_path):
    method = "method={kind: pgd_at, inner: {steps: 4, steps_ramp: 1.0}}"
    run = train(toy(method, "training.epochs=3"), tmp_path / "run", device="cpu")
    found = [record["passes"]["student"]["forward"] / 11 for record in run.metrics()]
    assert found == pytest.approx([3, 4, 5], abs=0.2)  # two steps, three, four, and the pass that is descended


class TestVerdicts:
    @pytest.mark.parametrize(
        ("found", "than", "better"),
        [
            ((1, 0.9, 0.5), None, True),
            ((2, 0.1, 0.6), (1, 0.9, 0.5), True),
            ((2, 0.9, 0.4), (1, 0.1, 0.5), False),
            ((2, 0.8, 0.5), (1, 0.7, 0.5), True),
            ((2, 0.7, 0.5), (1, 0.7, 0.5), False),
        ],
    )
    def test_more_robust_then_more_accurate_then_earlier(self, found, than, better):
        def validation(values):
            return values and Validation(epoch=values[0], clean=values[1], robust=values[2])

        assert validation(found).better_than(validation(than)) is better

    def test_an_epoch_of_one_answer_is_never_preferred(self):
        honest, constant = (Validation(epoch=1, clean=0.5, robust=0.4, constant=one) for one in (False, True))
        better = Validation(epoch=2, clean=0.6, robust=0.6, constant=True)
        assert not better.better_than(honest)
        assert honest.better_than(better)
        assert better.better_than(constant)
        assert better.better_than(None)

    @pytest.mark.parametrize(
        ("clean", "robust", "wanted"), [(0.9, 0.24, True), (0.9, 0.26, False), (0.7, 0.1, False), (0.82, 0.0, True)]
    )
    def test_catastrophic_overfitting_loses_robustness_alone(self, clean, robust, wanted):
        best = Validation(epoch=1, clean=0.9, robust=0.5)
        assert has_collapsed(best, Validation(epoch=2, clean=clean, robust=robust)) is wanted

    def test_a_collapse_is_told_when_it_happens_and_the_best_is_kept(self, toy, tmp_path, monkeypatch):
        script = iter([(0.5, 0.3), (0.6, 0.4), (0.9, 0.1), (0.1, 0.1)])

        def scripted(network, images, recipe, epoch, precision, processes):
            clean, robust = next(script)
            return Validation(epoch=epoch, clean=clean, robust=robust)

        monkeypatch.setattr(verb, "validate", scripted)
        news = list(training(toy("training.epochs=4"), tmp_path / "run", device="cpu"))
        assert [one.warnings for one in news] == [
            (),
            (),
            (
                "catastrophic overfitting: robust accuracy fell from 40.0 % (epoch 2) to 10.0 % while clean accuracy "
                "stayed",
            ),
            (),
        ]
        run = Run(tmp_path / "run")
        best = {"epoch": 2, "clean": 0.6, "robust": 0.4, "constant": False, "examples": 0}
        assert run.model()[1]["validation"] == best
        assert run.model("last")[1]["validation"]["epoch"] == 4
        assert [record["best_epoch"] for record in run.metrics()] == [1, 2, 2, 2]


def test_every_shipped_digits_recipe_starts(tmp_path, finished):
    """The networks, methods and teachers of the recipes fit together; one epoch each."""
    from overproof.shipped import find_recipe, recipe_names

    tiny = ("training.epochs=1", "selection.examples=10", "selection.trial.attack.steps=1")
    for name in recipe_names():
        if not name.startswith("digits/"):
            continue
        recipe = parse(find_recipe(name).read_text(), tiny)
        teachers = [f"teachers.{role}={finished().folder}" for role in recipe.teachers]
        run = train(parse(find_recipe(name).read_text(), [*tiny, *teachers]), tmp_path / name, device="cpu")
        assert len(run.metrics()) == 1


def test_a_teacher_of_other_classes_is_refused_by_name(toy, finished, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(finished().folder, teacher)
    description = json.loads((teacher / "model.json").read_text())
    description["classes"][3] = "three"
    (teacher / "model.json").write_text(json.dumps(description))
    recipe = toy("method={kind: kd}", f"teachers.robust={teacher}")
    with pytest.raises(InputError, match=r"was trained on other classes: its 3 is 'three', here it is '3'"):
        train(recipe, tmp_path / "student", device="cpu")
    assert not (tmp_path / "student").exists()
