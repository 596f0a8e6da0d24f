from copy import deepcopy

import pytest
import torch

from overproof.attacks.ball import Radius, Threat, ball
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.methods.free_at import FreeAT
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.training.loop import Loop
from overproof.training.optimisation import Training

from .by_hand import X, Y, ce, descend, images, network, step_of

EPS = 0.15
BATCHES = [(X, Y), (images(seed=1), Y), (images(3, seed=2), Y[:3]), (images(seed=4), Y)]


def twin(student, replays, *, clamp, rate=0.1):
    """Train by hand on the batches; return delta after each."""
    delta, deltas = torch.zeros_like(X), []
    for x, y in BATCHES:
        for _ in range(replays):
            rows = delta[: len(x)]
            adv = (torch.clamp(x + rows, 0, 1) if clamp else x + rows).requires_grad_()
            *slopes, slope = torch.autograd.grad(ce(student(adv), y).mean(), [*student.parameters(), adv])
            if clamp:  # a pixel at 0 or 1, as many are, has a gradient; one beyond has none
                slope = slope * ((x + rows >= 0) & (x + rows <= 1))
            with torch.no_grad():
                for weight, gradient in zip(student.parameters(), slopes, strict=True):
                    weight -= rate * gradient
                moved = torch.clamp(rows + EPS * torch.sign(slope), -EPS, EPS)
                delta[: len(x)] = torch.clamp(x + moved, 0, 1) - x
        deltas.append(delta.clone())
    return deltas


@pytest.mark.parametrize("replays", [1, 3])
@pytest.mark.parametrize("clamp", [True, False])
def test_training_equals_a_twin_by_hand(replays, clamp):
    method = FreeAT(replays=replays, threat=Threat(eps=Radius(str(EPS))), clamp_images=clamp)
    student, other = network(), network()
    state = method.initial_state(step_of(method))
    deltas = []
    for x, y in BATCHES:
        step = step_of(method, x=x, y=y, student=student, state=state)
        assert descend(method.losses(step), student) == replays == method.updates
        deltas.append(state["delta"].clone())
    for ours, hand in zip(deltas, twin(other, replays, clamp=clamp), strict=True):
        torch.testing.assert_close(ours, hand)
    for ours, hand in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, hand)


def test_clamping_matters_where_an_image_meets_the_perturbation_of_another():
    delta = torch.full_like(X, EPS)
    losses = [
        next(FreeAT(clamp_images=clamp).losses(step_of(FreeAT(), state={"delta": delta})))["adv"]
        for clamp in (True, False)
    ]
    student = network()
    torch.testing.assert_close(losses[0], ce(student(torch.clamp(X + EPS, 0, 1))).mean())
    torch.testing.assert_close(losses[1], ce(student(X + EPS)).mean())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_norm_is_maximised_and_kept(norm):
    method = FreeAT(replays=4, threat=Threat(norm=norm, eps=Radius("0.5")))
    student, state = network(), method.initial_state(step_of(method))
    still = deepcopy(student)
    for x, y in BATCHES:
        descend(method.losses(step_of(method, x=x, y=y, student=student, state=state)), student, rate=0.0)
        rows = state["delta"][: len(x)]
        assert (ball(norm, 0.5).size(rows) <= 0.5 + 1e-9).all()
        adv = x + rows
        assert adv.min() >= -1e-12 and adv.max() <= 1 + 1e-12
        assert ce(still(adv), y).mean() > ce(still(x), y).mean()


def test_the_loop_steps_once_per_replay_and_delta_outlives_the_batch(monkeypatch):
    pixels = torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8)
    data = ImageSet("made", pixels, torch.arange(7) % 3, ("a", "b", "c"))
    method = FreeAT(replays=3, threat=Threat(eps=Radius("0.1")))
    torch.manual_seed(0)
    loader = Loader(data, 5, Augment(), seed=0)  # batches of 5 and 2
    training = Training(epochs=2, batch=5, precision="fp32")
    loop = Loop(method, build(MLP(hidden=(6,)), data.signature), {}, loader, training, seed=0)
    steps, memories = [], []
    descends = loop.optimiser.step
    monkeypatch.setattr(loop.optimiser, "step", lambda: (steps.append(loop.batch), descends()))
    losses = FreeAT.losses

    def watched(self, step):
        memories.append(step.state["delta"].clone())
        yield from losses(self, step)
        memories.append(step.state["delta"].clone())

    monkeypatch.setattr(FreeAT, "losses", watched)
    for _ in loop.run():
        pass
    assert steps == [0, 0, 0, 1, 1, 1] * 2
    assert not memories[0].any() and memories[1].any()
    for after, before in zip(memories[1:-1:2], memories[2::2], strict=True):
        assert torch.equal(after, before)
    small_before, small_after = memories[2], memories[3]
    assert torch.equal(small_before[2:], small_after[2:]) and not torch.equal(small_before[:2], small_after[:2])


def test_no_replay_is_refused():
    with pytest.raises(ValueError, match=r"^replays must be at least 1, got 0$"):
        FreeAT(replays=0)
