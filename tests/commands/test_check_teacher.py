import json

import numpy as np
import pytest
import torch
from torch import nn

from overproof.commands.check_teacher import check_teacher
from overproof.errors import InputError
from overproof.models.weights import save_model
from overproof.recipe import dump, parse
from overproof.runs.folder import Run
from overproof.statistics import Proportion

EDITS = ("training.epochs=6",)


@pytest.fixture
def run(finished):
    return finished(*EDITS)


@pytest.fixture
def altered(run, tmp_path):
    """Return a function: a copy of the run with an altered network."""

    def make(change, **layer):
        model, description = run.model()
        for name, value in layer.items():
            setattr(model, name, value)
        change(model)
        folder = tmp_path / "altered"
        folder.mkdir()
        (folder / "recipe.yaml").write_bytes((run.folder / "recipe.yaml").read_bytes())
        recipe = run.recipe()
        facts = {"name": "altered", "selected_on": "unknown", "parameters": 1}
        save_model(folder, model, recipe.student, tuple(description["classes"]), facts=facts)
        return Run(folder)

    return make


def check(run, **options):
    return check_teacher(run, **{"examples": 60, "device": "cpu", "eps": "0.02", **options})


def test_a_teacher_is_checked_and_the_verdict_written(run, tmp_path):
    before = {file.name: file.read_bytes() for file in run.folder.glob("*.*")}
    found, content = check(run, out=tmp_path / "out")
    assert found.verdict == "fit"
    assert 0.1 < found.robust.share <= found.clean.share
    assert found.readings[0].correct == Proportion(claim="correct on clean images", passed=found.clean.passed, of=60)
    assert found.order.kept
    assert content["threat"] == {"norm": "linf", "eps": "0.02"}
    assert content["model_digest"] == run.description()["digest"]
    assert json.loads((tmp_path / "out" / "teacher.json").read_text()) == content
    assert {file.name: file.read_bytes() for file in run.folder.glob("*.*")} == before


def test_the_same_check_gives_the_same_answer(run, tmp_path):
    def figures():
        content = check(run, out=tmp_path / "out")[1]
        return [content["clean"]["passed"], content["robust"]["passed"], content["confidence_in_errors"]]

    assert figures() == figures()


def test_its_order_of_classes_is_tested(altered):
    def swap(model):
        for part in (model.head.weight, model.head.bias):
            part.data = part.data[torch.tensor([1, 0, 2, 3, 4, 5, 6, 9, 8, 7])]

    found, _ = check(altered(swap))
    assert found.verdict == "unfit"
    assert found.order.order == (1, 0, 2, 3, 4, 5, 6, 9, 8, 7)
    assert "label k as its class 0 -> 1, 1 -> 0, 7 -> 9, 9 -> 7" in found.sentence


def test_the_range_it_wants_is_tested(altered):
    """The same network, made for bytes: its first layer divides by 255 what it gets, and its biases do not."""

    def for_bytes(model):
        first = next(module for module in model.modules() if isinstance(module, nn.Linear))
        first.weight.data /= 255
        first.bias.data -= 0.3  # so that pixels in [0, 1] say nothing

    found, content = check(altered(for_bytes))
    assert found.verdict == "unfit"
    assert "it wants pixels as 0..255 (" in found.sentence
    assert content["warnings"] == []


def test_a_network_of_chance_is_unfit(altered):
    found, content = check(altered(lambda model: model.head.weight.data.zero_()))
    assert found.sentence.startswith("unfit: it is no better than chance on clean images (")
    assert content["warnings"]


def test_a_network_that_withstands_nothing_teaches_clean_answers_alone(run, tmp_path):
    found, _ = check(run, eps="0.5", out=tmp_path)
    assert found.sentence.startswith("doubtful: it withstands nothing (0.0 % under attack)")


def test_it_must_surpass_the_student_alone(run, finished, tmp_path):
    found, content = check(run, student=run.folder, out=tmp_path)
    assert found.verdict == "doubtful" and "is without a teacher" in found.sentence
    assert content["student"]["robust"]["passed"] == found.robust.passed
    weaker = finished("training.epochs=1", "training.optimiser.lr=0.0005")
    assert check(run, student=weaker.folder, out=tmp_path)[0].verdict == "fit"


def test_a_run_as_student_says_how_much_transfers(run, tmp_path):
    found, content = check(run, student=run.folder, out=tmp_path)
    assert content["transferability"]["transferable"]["passed"] == 60  # it is its own student
    assert found.transferability.entropy_attacked > found.transferability.entropy_clean
    low, high = content["transferability"]["published"]["interval"]
    assert low < 0.52 < high
    assert check(run, out=tmp_path)[1]["transferability"] is None


@pytest.mark.parametrize("form", ["value", "file", "name"])
def test_the_student_of_a_recipe_is_trained_alone_before(run, tmp_path, form, monkeypatch):
    monkeypatch.setattr("overproof.commands.check_teacher.ALONE_UPDATES", 40)
    distilled = parse(dump(run.recipe()), ("method={kind: ard}", "teachers.robust=nowhere"))
    (tmp_path / "mine.yaml").write_text(dump(distilled))
    student = {"value": distilled, "file": str(tmp_path / "mine.yaml"), "name": "digits/ard"}[form]
    found, content = check(run, student=student, out=tmp_path / "out", eps="0.05")
    assert content["student"]["name"].endswith("after 40 updates")
    assert found.student.clean.share > 0.5
    assert 0 < found.transferability.share.share <= 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.yaml", "out"]


def test_a_recipe_of_other_images_is_no_student(run, tmp_path, monkeypatch):
    monkeypatch.setattr("overproof.commands.check_teacher.ALONE_UPDATES", 2)
    x, y = np.zeros((64, 6, 6), np.uint8), np.arange(64) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    other = parse(dump(run.recipe()), (f"data={{kind: npz, path: {tmp_path / 'other.npz'}}}", "training.batch=16"))
    with pytest.raises(InputError, match="its images are 1x6x6"):
        check(run, student=other, out=tmp_path)


def test_what_cannot_be_checked(run, tmp_path):
    def refused(*arguments, **options):
        with pytest.raises(InputError) as caught:
            check(*arguments, **options)
        return str(caught.value)

    assert refused(run, eps=0).endswith("an eps of 0 attacks nothing; a teacher is checked under attack")
    assert refused(run, examples=-1) == "examples must be 0 (all) or more, got -1"
    assert refused(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such run folder"
    assert "say on which images" in refused("nowhere.module:make")
    assert refused(run, student=tmp_path / "x") == f"{tmp_path / 'x'}: no such run folder"
    assert "no recipe file" in refused(run, student=tmp_path / "x.yaml")
    assert not (run.folder / "teacher.json").exists()
