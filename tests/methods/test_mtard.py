import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.mtard import MTARD

from .by_hand import ADV, X, ce, counting, equal, images, maximises, network, only, prob, step_of, tell


def divergences(step, adv, classes=1, log_eps=0.0, factor=1.0):
    """Return the losses before they are weighed: adv, clean."""
    student, teachers = step.student, step.teachers
    found = []
    for role, x in (("robust", adv), ("clean", step.x)):
        p = prob(teachers[role](x))
        rows = (p * (torch.log(p + log_eps) - torch.log(prob(student(x))))).sum(dim=1) / classes
        found.append(factor * rows.mean())
    return found


@pytest.mark.parametrize("scale", ["batch", "class"])
@pytest.mark.parametrize(("log_eps", "factor"), [(0.0, 1.0), (1e-5, 10.0), (0.1, 2.0)])
def test_terms_of_the_first_batch_are_the_formula(scale, log_eps, factor, monkeypatch):
    tell(monkeypatch)
    method = MTARD(kl_scale=scale, log_eps=log_eps, factor=factor)
    step = step_of(method)
    adv, clean = divergences(step, ADV, 4 if scale == "class" else 1, log_eps, factor)
    # Relative to themselves both losses are 1, so the weights stay at a half.
    equal(only(method.losses(step)), {"adv": 0.5 * adv, "clean": 0.5 * clean}, step.student)


@pytest.mark.parametrize("rate", [0.0, 0.025, 0.5, 1.0])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_trajectory_by_hand(rate, power, monkeypatch):
    told = tell(monkeypatch)
    method = MTARD(balance_rate=rate, balance_power=power)
    state = method.initial_state(step_of(method))
    assert {name: value.tolist() for name, value in state.items() if name != "initial"} == {
        "weights": [0.5, 0.5],
        "relative": [1.0, 1.0],
    }
    assert state["initial"].isnan().all()
    weights, initial = [0.5, 0.5], None
    for seed in range(4):  # another student, other images: the losses jump
        x = images(seed=seed)
        told.adv = images(seed=seed + 100)
        step = step_of(method, x=x, student=network(seed), state=state)
        losses = divergences(step, told.adv)
        now = [float(loss.detach()) for loss in losses]
        initial = initial or now
        relative = [a / b for a, b in zip(now, initial, strict=True)]
        shares = [value**power for value in relative]
        weights = [w - rate * (w - share / sum(shares)) for w, share in zip(weights, shares, strict=True)]
        hand = {"adv": weights[0] * losses[0], "clean": weights[1] * losses[1]}
        equal(only(method.losses(step)), hand, step.student)
        assert state["weights"].tolist() == pytest.approx(weights) and sum(weights) == pytest.approx(1)
        assert state["relative"].tolist() == pytest.approx(relative)
        assert state["initial"].tolist() == pytest.approx(initial)
        assert not any(value.requires_grad for value in state.values())
    assert (weights == [0.5, 0.5]) == (rate == 0)


@pytest.mark.parametrize(("progress", "rate"), [(0.4, 0.5), (0.5, 0.05), (0.9, 0.005)])
def test_the_rate_falls_at_its_drops(progress, rate, monkeypatch):
    tell(monkeypatch)
    method = MTARD(balance_rate=0.5, rate_drops=(0.5, 0.8))
    state = {**method.initial_state(step_of(method)), "initial": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    step = step_of(method, progress=progress, state=state)
    only(method.losses(step))
    share = float(state["relative"][0] / state["relative"].sum())
    assert float(state["weights"][0]) == pytest.approx(0.5 + rate * (share - 0.5)) != 0.5


def test_the_search_maximises_cross_entropy(monkeypatch):
    told = tell(monkeypatch)
    method = MTARD(inner=PGD(start="normal", ramp=1.0))
    step = step_of(method, progress=0.5)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.5)] and told.models == [step.student]
    maximises(told, lambda x: ce(step.student(x)))


def test_each_teacher_is_asked_once_about_its_own_image(monkeypatch):
    tell(monkeypatch)
    step = step_of(MTARD())
    robust, clean = (counting(step.teachers[role]) for role in ("robust", "clean"))
    only(MTARD().losses(step))
    assert len(robust) == len(clean) == 1
    assert torch.equal(robust[0], ADV) and torch.equal(clean[0], X)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"balance_rate": -0.1}, r"balance_rate is a step towards a target and must be in \[0, 1\], got -0.1"),
        ({"balance_rate": 1.5}, r"balance_rate is a step towards a target and must be in \[0, 1\], got 1.5"),
        ({"factor": -1.0}, "factor is a weight and cannot be negative, got -1.0"),
        ({"log_eps": -1.0}, "log_eps is a weight and cannot be negative, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        MTARD(**options)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_ends_of_a_rate_are_allowed(rate):
    assert MTARD(balance_rate=rate, inner=PGD()).balance_rate == rate
