import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from overproof.training.averaging import EMA
from overproof.training.optimisation import SGD, AdamW, Constant, Cosine, Multistep, OneCycle, Training, Triangular

lengths = st.integers(1, 300)
shares = st.floats(0, 1)


@given(shares, lengths)
def test_constant(share, epochs):
    assert Constant().factor(share * epochs, epochs) == 1


@given(st.lists(st.integers(1, 100), max_size=4), st.floats(0.05, 1), st.floats(0, 120))
def test_multistep_multiplies_once_per_milestone_passed(milestones, gamma, epoch):
    wanted = 1.0
    for milestone in milestones:
        if epoch >= milestone:
            wanted *= gamma
    assert Multistep(milestones=tuple(milestones), gamma=gamma).factor(epoch, 120) == pytest.approx(wanted)


def test_multistep_changes_at_the_milestone_itself():
    schedule = Multistep(milestones=(2, 4), gamma=0.1)
    assert [schedule.factor(epoch, 5) for epoch in (1.99, 2, 3.99, 4, 5)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


@given(shares, lengths, st.floats(0, 1))
def test_cosine_is_half_a_cosine_down_to_its_floor(share, epochs, floor):
    wanted = floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * share))
    assert Cosine(floor=floor).factor(share * epochs, epochs) == pytest.approx(wanted, abs=1e-9)


def test_cosine_agrees_with_torch():
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=10, eta_min=0.05)
    for epoch in range(10):
        assert Cosine(floor=0.05).factor(epoch, 10) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimiser.step()
        reference.step()


@given(shares, lengths, st.floats(0.01, 0.99))
def test_triangular_rises_to_its_peak_and_falls_to_zero(share, epochs, peak):
    schedule = Triangular(peak=peak)
    assert schedule.factor(0, epochs) == 0
    assert schedule.factor(epochs, epochs) == 0
    assert schedule.factor(peak * epochs, epochs) == pytest.approx(1)
    # numpy's straight lines through the three points are the oracle.
    import numpy as np

    wanted = np.interp(share, [0, peak, 1], [0, 1, 0])
    assert schedule.factor(share * epochs, epochs) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("pct_start", [0.05, 0.3])
def test_one_cycle_is_torchs(anneal, pct_start):
    steps = 200  # torch's top is one step before the share, and its end one before the last
    options = {"div_factor": 10.0, "final_div_factor": 100.0}
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=0.3,
        total_steps=steps,
        pct_start=pct_start,
        anneal_strategy={"cosine": "cos", "linear": "linear"}[anneal],
        cycle_momentum=False,
        **options,
    )
    ours = OneCycle(pct_start=(pct_start * steps - 1) / (steps - 1), anneal=anneal, **options)
    for step in range(steps):
        assert 0.3 * ours.factor(step, steps - 1) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < steps - 1:
            reference.step()
    assert ours.factor(steps, steps - 1) == pytest.approx(1 / 1000)


@pytest.mark.parametrize(
    "options", [{"pct_start": 0.0}, {"pct_start": 1.0}, {"div_factor": 0.5}, {"final_div_factor": 0.0}]
)
def test_a_cycle_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match=r"pct_start is a share of the run|div_factor and final_div_factor divide"):
        OneCycle(**options)


@pytest.mark.parametrize("schedule", [Cosine(), Triangular()], ids=repr)
def test_nothing_is_negative_after_the_end(schedule):
    assert schedule.factor(11, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("peak", [0, 1, -0.1, 1.5])
def test_a_peak_outside_the_run_is_refused(peak):
    with pytest.raises(ValueError, match="peak is a share of the run, between 0 and 1"):
        Triangular(peak=peak)


@given(st.floats(0.5, 20), st.floats(0, 40))
def test_the_learning_rate_is_base_times_schedule_times_warm_up(warmup, epoch):
    training = Training(epochs=40, optimiser=SGD(lr=0.2), schedule=Cosine(), warmup=warmup)
    wanted = 0.2 * Cosine().factor(epoch, 40) * min(1, epoch / warmup)
    assert training.learning_rate(epoch) == pytest.approx(wanted)


def test_without_warm_up_the_first_rate_is_the_base():
    assert Training(optimiser=SGD(lr=0.2)).learning_rate(0) == 0.2


def test_sgd_is_torchs_with_every_option(rosenbrock):
    ours = rosenbrock(SGD(lr=1e-3, momentum=0.8, weight_decay=0.1, nesterov=True).build)
    wanted = rosenbrock(lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.8, weight_decay=0.1, nesterov=True))
    torch.testing.assert_close(ours, wanted)


def test_adamw_is_torchs_with_every_option(rosenbrock):
    ours = rosenbrock(AdamW(lr=1e-2, weight_decay=0.1, betas=(0.8, 0.95)).build)
    wanted = rosenbrock(lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.95)))
    torch.testing.assert_close(ours, wanted)


@pytest.fixture
def rosenbrock():
    """Return a function: the end of twenty steps down Rosenbrock's valley with an optimiser built over the point."""

    def descend(build):
        point = nn.Parameter(torch.tensor([-1.0, 1.5], dtype=torch.float64))
        optimiser = build([point])
        for _ in range(20):
            optimiser.zero_grad()
            ((1 - point[0]) ** 2 + 10 * (point[1] - point[0] ** 2) ** 2).backward()
            optimiser.step()
        return point.detach()

    return descend


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Training(epochs=0), "epochs and batch must be at least 1, got 0 and 128"),
        (lambda: Training(batch=0), "epochs and batch must be at least 1, got 100 and 0"),
        (lambda: Training(clip=-1.0), "clip and warmup cannot be negative, got -1.0 and 0.0"),
        (lambda: Training(warmup=-1.0), "clip and warmup cannot be negative, got 0.0 and -1.0"),
        (lambda: SGD(lr=-0.1), "lr and weight_decay cannot be negative, got -0.1 and 0.0005"),
        (lambda: AdamW(weight_decay=-1.0), "lr and weight_decay cannot be negative, got 0.001 and -1.0"),
        (lambda: SGD(momentum=1.0), r"momentum must be in \[0, 1\), and above 0 for nesterov, got 1.0"),
        (lambda: SGD(momentum=0.0, nesterov=True), r"momentum must be in \[0, 1\), and above 0 for nesterov, got 0.0"),
        (lambda: AdamW(betas=(0.9, 1.0)), r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: EMA(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
