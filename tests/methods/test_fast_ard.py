import pytest
import torch

from overproof.attacks.ball import Radius, Threat, ball
from overproof.methods.fast_ard import FastARD
from overproof.models.weights import freeze

from .by_hand import X, Y, ce, counting, descend, equal, images, kl, looked, network, step_of

EPS = 0.15
BATCHES = [(X, Y), (images(seed=1), Y), (images(3, seed=2), Y[:3]), (images(seed=4), Y)]


def twin(student, teacher, ascend, alpha, t, classes, rate=0.1):
    """Train by hand on the batches with three replays; return the terms of every replay and delta after each batch."""
    delta, deltas, told = torch.zeros_like(X), [], []
    for x, y in BATCHES:
        target = teacher(x)
        for _ in range(3):
            rows = delta[: len(x)]
            adv = torch.clamp(x + rows, 0, 1).requires_grad_()
            loss = alpha * t**2 * kl(target, student(adv), t).mean() / classes
            loss = loss + (1 - alpha) * ce(student(x), y).mean()
            told.append(loss.detach())
            *slopes, slope = torch.autograd.grad(loss, [*student.parameters(), adv], retain_graph=True)
            # A pixel at 0 or 1, as many are, has a gradient; one beyond has none.
            slope = slope * ((x + rows >= 0) & (x + rows <= 1))
            if ascend == "cross_entropy":
                point = adv.detach().requires_grad_()
                (slope,) = torch.autograd.grad(ce(student(point), y).sum(), point)
            with torch.no_grad():
                for weight, gradient in zip(student.parameters(), slopes, strict=True):
                    weight -= rate * gradient
                moved = torch.clamp(rows + EPS * torch.sign(slope), -EPS, EPS)
                delta[: len(x)] = torch.clamp(x + moved, 0, 1) - x
        deltas.append(delta.clone())
    return told, deltas


@pytest.mark.parametrize("ascend", ["distillation", "cross_entropy"])
@pytest.mark.parametrize(("alpha", "t", "scale"), [(1.0, 30.0, "batch"), (0.6, 2.0, "batch"), (0.6, 2.0, "class")])
def test_training_equals_a_twin_by_hand(ascend, alpha, t, scale):
    threat = Threat(eps=Radius(str(EPS)))
    method = FastARD(alpha=alpha, temperature=t, replays=3, ascend=ascend, threat=threat, kl_scale=scale)
    teacher, other = freeze(network(7)), network()
    told, deltas = twin(other, teacher, ascend, alpha, t, 4 if scale == "class" else 1)
    student, state = network(), method.initial_state(step_of(method))
    found = []

    def noted(losses):
        for terms in losses:
            assert list(terms) == (["distil"] if alpha == 1 else ["distil", "label"])
            found.append(sum(term.detach() for term in terms.values()))
            yield terms

    for (x, y), delta in zip(BATCHES, deltas, strict=True):
        step = step_of(method, x=x, y=y, student=student, teachers={"robust": teacher}, state=state)
        assert descend(noted(method.losses(step)), student) == 3 == method.updates
        torch.testing.assert_close(state["delta"], delta)
    torch.testing.assert_close(torch.stack(found), torch.stack(told))
    for ours, hand in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, hand)


def test_the_two_readings_maximise_differently():
    """The teacher is sure of another class, so what hurts distillation does not hurt the label."""
    ends = []
    for ascend in ("distillation", "cross_entropy"):
        method = FastARD(ascend=ascend, temperature=1.0, replays=1)
        step = step_of(method)
        descend(method.losses(step), step.student, rate=0.0)
        ends.append(step.state["delta"])
    assert not torch.equal(*ends)


def test_terms_of_one_replay_have_the_gradient_of_the_formula():
    method = FastARD(alpha=0.3, temperature=3.0, replays=1)
    delta = 0.1 * torch.ones_like(X)
    step = step_of(method, state={"delta": delta})
    student, adv = step.student, torch.clamp(X + delta, 0, 1)
    hand = {
        "distil": 0.3 * 9 * kl(step.teachers["robust"](X), student(adv), 3.0).mean(),
        "label": 0.7 * ce(student(X)).mean(),
    }
    equal(next(method.losses(step)), hand, student)


@pytest.mark.parametrize("ascend", ["distillation", "cross_entropy"])
def test_the_teacher_is_asked_once_per_batch_and_about_the_clean_image(ascend):
    method = FastARD(replays=5, ascend=ascend)
    step = step_of(method, state={"delta": 0.1 * torch.ones_like(X)})
    asked, answered = counting(step.teachers["robust"]), counting(step.student)
    descend(method.losses(step), step.student)
    assert len(asked) == 1 and torch.equal(asked[0], X)
    assert len(answered) == (5 if ascend == "distillation" else 10)


def test_maximising_cross_entropy_costs_one_more_look_for_batchnorm(make_step):
    looks = []
    for ascend in ("distillation", "cross_entropy"):
        method = FastARD(replays=2, ascend=ascend)
        step = make_step(method)
        descend(method.losses(step), step.student)
        looks.append(looked(step.student))
    assert looks == [2, 4]


def test_an_l2_threat_is_kept():
    method = FastARD(replays=4, threat=Threat(norm="l2", eps=Radius("0.3")))
    student, state = network(), method.initial_state(step_of(method))
    for x, y in BATCHES:
        descend(method.losses(step_of(method, x=x, y=y, student=student, state=state)), student)
        rows = state["delta"][: len(x)]
        sizes = ball("l2", 0.3).size(rows)
        assert (sizes <= 0.3 + 1e-9).all() and (sizes > 0.1).all()
        assert (x + rows).min() >= -1e-12 and (x + rows).max() <= 1 + 1e-12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, r"alpha is the share of the distillation term and must be in \[0, 1\], got 1.5"),
        ({"alpha": -0.1}, r"alpha is the share of the distillation term and must be in \[0, 1\], got -0.1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"replays": 0}, "replays must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        FastARD(**options)
