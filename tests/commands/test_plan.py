from dataclasses import replace

import pytest
import yaml

from overproof.attacks.pgd import PGD
from overproof.commands.plan import (
    fit_budget,
    format_seconds,
    plan_recipe,
    plan_sweep,
    read_budget,
    write_fitted,
)
from overproof.commands.sweep import read_sweep
from overproof.errors import InputError
from overproof.recipe import dump, parse
from overproof.runs.plan import Plan
from overproof.training.cost import Passes

SLOW = "method={kind: pgd_at, inner: {steps: 8}}"


@pytest.fixture
def measured(monkeypatch):
    """Let every batch take a second for each ten passes of the student, and a half second less with kept answers."""
    seen = []

    def plan(recipe, stage, seconds=20.0):
        del stage
        seen.append(recipe)
        batches = 10
        first = Plan(
            epochs=1,
            batches=batches,
            validations=0,
            start_up=0.0,
            batch=(0.5 if recipe.training.teacher_cache else 1.0, 0.1),
            validation=0.0,
            weighted=0.0,
            passes={"student": Passes(forward=1, backward=1)},
            memory=1,
            disk=1,
            watts=None,
        )
        return first.at(recipe)

    monkeypatch.setattr("overproof.commands.plan.measure", plan)
    return seen


@pytest.mark.parametrize(
    ("text", "seconds"), [("6h", 21600), ("90m", 5400), ("90min", 5400), ("45s", 45), ("1h30m", 5400), ("0.5H", 1800)]
)
def test_a_time_is_read(text, seconds):
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["6", "h", "", "6 hours", "-1h", "1h x", "0s", "1d"])
def test_what_is_no_time_is_one_sentence(text):
    with pytest.raises(InputError, match="--budget"):
        read_budget(text)


def test_times_are_written_in_the_unit_that_reads_best():
    assert [format_seconds(one) for one in (3.04, 90, 5400)] == ["3.0 s", "1.5 min", "1.5 h"]


def test_what_fits_is_left_as_it_is(toy, measured):
    recipe = toy(SLOW)  # two epochs of ten batches of 1 + 1.8 seconds
    found = fit_budget(recipe, 60)
    assert found.recipe == recipe and found.changes == () and len(measured) == 1
    assert found.plan.seconds == pytest.approx(56)


def test_searches_grow_before_epochs_are_given_up(toy, measured):
    recipe = toy(SLOW, "training.epochs=4")
    found = fit_budget(recipe, 105)
    assert found.recipe == replace(recipe, method=replace(recipe.method, inner=PGD(steps=8, eps=0.1, steps_ramp=0.5)))
    assert found.changes == ("searches grow over 0.5 of the run",)
    assert found.plan.seconds <= 0.95 * 105 < 4 * 28


def test_at_last_there_are_fewer_epochs_and_milestones_keep_their_places(toy, measured):
    schedule = "training.schedule={kind: multistep, milestones: [10, 15]}"
    recipe = toy(SLOW, "training.epochs=20", "training.warmup=2", schedule)
    found = fit_budget(recipe, 250)
    epochs = found.recipe.training.epochs
    assert 1 <= epochs < 20 and found.plan.seconds <= 0.95 * 250
    longer = replace(found.recipe, training=replace(found.recipe.training, epochs=epochs + 1))
    assert found.plan.at(longer).seconds > 0.95 * 250
    assert found.recipe.training.schedule.milestones == (epochs / 2, epochs * 0.75)
    assert found.recipe.training.warmup == epochs / 10
    assert found.changes[-1] == f"training.epochs: 20 -> {epochs}"


def test_kept_answers_come_first_where_images_are_shown_again(toy, finished, measured):
    recipe = toy("method={kind: kd}", f"teachers.robust={finished().folder}", "training.epochs=10")
    found = fit_budget(recipe, 100)  # 120 seconds as it is, 70 with kept answers
    assert found.recipe.training.teacher_cache
    assert found.changes == ("training.teacher_cache: true",)
    cropped = parse(dump(recipe), ["augment.crop=1"])
    assert not fit_budget(cropped, 100).recipe.training.teacher_cache


def test_a_time_too_short_for_one_epoch_is_refused(toy, measured):
    with pytest.raises(InputError, match=r"one epoch takes .* here, and the budget is 3.0 s"):
        fit_budget(toy(SLOW), 3)


def test_a_recipe_is_written_once(toy, tmp_path):
    file = tmp_path / "mine.yaml"
    write_fitted(toy(), file)
    write_fitted(toy(), file)
    assert parse(file.read_text()) == toy()
    with pytest.raises(InputError, match="exists already and is another recipe"):
        write_fitted(toy("seed=3"), file)
    assert parse(file.read_text()) == toy()


@pytest.fixture
def sweep(toy, tmp_path):
    """Return a sweep of a teacher and two kinds of students at two seeds, in a folder of their recipes."""
    (tmp_path / "base.yaml").write_text(dump(toy()))
    taught = yaml.safe_load(dump(toy())) | {"method": {"kind": "kd"}, "teachers": {"robust": "nowhere"}}
    (tmp_path / "taught.yaml").write_text(yaml.safe_dump(taught))
    rows = {
        "teacher": {"recipe": "base.yaml", "seeds": [0], "set": {"student.hidden": [32]}},
        "student": {"recipe": "taught.yaml", "teachers": {"robust": "teacher"}},
        "longer": {"recipe": "taught.yaml", "teachers": {"robust": "teacher"}, "set": {"training.epochs": 5}},
    }
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"runs": rows, "seeds": [0, 1]}))
    return read_sweep(tmp_path / "rows.yaml")


def test_a_sweep_is_measured_without_a_trained_teacher_and_each_kind_of_cell_once(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = {one.name: one for one in plan_sweep(sweep, seconds=0.2, device="cpu")}
    assert {name: one.measured for name, one in found.items()} == {
        "teacher,seed=0": True,
        "student,seed=0": True,
        "longer,seed=0": True,
        "student,seed=1": False,
        "longer,seed=1": False,
    }
    assert found["longer,seed=1"].plan.epochs == 5
    assert found["student,seed=0"].plan.passes["robust"].forward == 2 * 11
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_is_planned_and_nothing_is_written(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_recipe(toy(), seconds=0.2, device="cpu")
    assert plan.seconds > 0 and plan.epochs == 2
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_is_not_there_is_named(toy):
    with pytest.raises(InputError, match="nowhere: no such run folder"):
        plan_recipe(toy("method={kind: kd}", "teachers.robust=nowhere"), seconds=0.1, device="cpu")
