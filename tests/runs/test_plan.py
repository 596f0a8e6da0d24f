from collections.abc import Generator

import pytest
import torch

from overproof.processes import ALONE
from overproof.runs.plan import Plan, _fit, _Sample, measure
from overproof.runs.trainer import set_up
from overproof.training.cost import Passes, passes_of_epoch

CPU = torch.device("cpu")
PASS = 0.25  # seconds of the clock; a power of two, so that sums of it are exact
GROWING = "method={kind: pgd_at, inner: {steps: 4, steps_ramp: 0.5}}"


def staged(recipe):
    events: Generator = set_up(recipe, CPU, ALONE, False, None)
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


class Clock:
    """Time that passes with every pass of a student through its network, and never else."""

    def __init__(self, student):
        self.now = 0.0
        student.register_forward_hook(self._passed)

    def _passed(self, *_):
        self.now += PASS

    def __call__(self):
        return self.now


@pytest.fixture
def clocked(monkeypatch):
    """Return a function: the stage of a recipe and the clock that plans look at, with a look after every batch."""

    def make(recipe):
        stage = staged(recipe)
        clock = Clock(stage.loop.student)
        monkeypatch.setattr("overproof.runs.plan.monotonic", clock)
        monkeypatch.setattr("overproof.training.pace.LOOK_SECONDS", 0)
        return stage, clock

    return make


def train_through(stage):
    for _ in stage.loop.run():
        pass


@pytest.mark.parametrize("method", ["method={kind: pgd_at, inner: {steps: 3}}", GROWING])
def test_the_batches_take_what_the_run_then_takes(toy, clocked, method):
    recipe = toy(method, "training.epochs=6")
    stage, _ = clocked(recipe)
    plan = measure(recipe, stage, seconds=60 * PASS)
    stage, clock = clocked(recipe)
    train_through(stage)
    # Where searches grow, places of a run are told apart to a hundredth: in 66 batches one may be a step off.
    assert plan.seconds_of_batches == pytest.approx(clock.now, abs=1e-6 if method != GROWING else 4 * PASS)
    assert plan.batches == len(stage.loop.loader) and plan.epochs == 6


def test_passes_are_those_of_all_epochs(toy, clocked):
    recipe = toy(GROWING, "training.epochs=3")
    stage, _ = clocked(recipe)
    plan = measure(recipe, stage, seconds=PASS)
    each = [passes_of_epoch(recipe.method, epoch, 3, plan.batches)["student"] for epoch in range(3)]
    total = Passes(forward=sum(one.forward for one in each), backward=sum(one.backward for one in each))
    assert plan.passes == {"student": total}


def test_what_it_writes_fits_into_what_was_said(toy, finished):
    recipe = toy()
    plan = measure(recipe, staged(recipe), seconds=0.1)
    folder = finished().folder
    files = [*folder.glob("*.safetensors"), *(file for file in (folder / "checkpoint").rglob("*") if file.is_file())]
    written = sum(file.stat().st_size for file in files)
    headers = 20_000 * len(files)  # names, shapes and the archive around the numbers
    assert written - headers <= plan.disk <= 2 * written  # while a checkpoint is written there are two
    assert plan.memory > 50e6


def test_a_validation_attacks_every_image_even_of_a_network_that_errs(toy, clocked):
    """Two steps of PGD on 40 images: the clean pass, one per step, and the judge's look at what was found."""
    recipe = toy("training.epochs=2", "selection.every=1")
    stage, _ = clocked(recipe)
    asked = []
    stage.loop.student.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
    plan = measure(recipe, stage, seconds=PASS)
    assert plan.validations == 2
    assert plan.validation > 0
    assert set(asked[:3]) == {40}


def test_a_longer_run_is_reckoned_from_the_same_measurement(toy, clocked):
    short, long = toy(GROWING, "training.epochs=2"), toy(GROWING, "training.epochs=6", "selection.every=3")
    stage, _ = clocked(short)
    plan = measure(short, stage, seconds=30 * PASS).at(long)
    stage, clock = clocked(long)
    train_through(stage)
    assert plan.seconds_of_batches == pytest.approx(clock.now, abs=4 * PASS)
    assert (plan.epochs, plan.validations) == (6, 2)


def test_seconds_are_of_start_batches_and_validations():
    plan = Plan(
        epochs=3,
        batches=10,
        validations=2,
        start_up=1.5,
        batch=(0.1, 0.02),
        validation=4.0,
        weighted=500.0,
        passes={"student": Passes(forward=1, backward=2)},
        memory=7,
        disk=8,
        watts=50.0,
    )
    assert plan.seconds == pytest.approx(1.5 + 3 + 10 + 8)
    assert plan.joules == pytest.approx(50 * 22.5)
    content = plan.plain()
    assert content["seconds"] == plan.seconds and content["passes"] == {"student": {"forward": 1, "backward": 2}}
    assert content["seconds_per_batch"] == pytest.approx(13 / 30)


class TestFit:
    def test_two_costs_are_told_apart(self):
        samples = [_Sample(n, n * p, 0.5 * n + 0.125 * n * p) for n, p in ((1, 6.0), (3, 6.0), (2, 12.0))]
        assert _fit(samples) == pytest.approx((0.5, 0.125))

    def test_where_passes_never_change_a_batch_has_one_cost(self):
        assert _fit([_Sample(2, 16.0, 3.0), _Sample(4, 32.0, 6.0)]) == (1.5, 0.0)

    def test_no_part_is_negative(self):
        a, b = _fit([_Sample(1, 10.0, 1.0), _Sample(1, 20.0, 0.9)])
        assert a >= 0 and b >= 0


def test_a_training_that_goes_astray_at_its_end_is_planned_from_its_beginning(toy, clocked, monkeypatch):
    recipe = toy("training.epochs=4")
    stage, _ = clocked(recipe)
    learn = stage.loop._learn

    def diverge(batch):
        learn(batch)
        if stage.loop.epoch == 3:
            stage.loop.student.head.weight.data.fill_(float("nan"))

    monkeypatch.setattr(stage.loop, "_learn", diverge)
    plan = measure(recipe, stage, seconds=4 * PASS)
    assert plan.seconds_of_batches == pytest.approx(4 * plan.batches * PASS)
