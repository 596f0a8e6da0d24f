import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.b_mtard import BMTARD
from overproof.methods.mtard import MTARD
from overproof.models.weights import freeze

from .by_hand import (
    ADV,
    X,
    ce,
    counting,
    descend,
    entropy,
    equal,
    images,
    maximises,
    network,
    noted,
    only,
    prob,
    step_of,
    tell,
)


def softened(step, adv, temperatures):
    """Return the teachers' logits over their temperatures: adv, clean."""
    return [
        step.teachers[role](x) / t for role, x, t in zip(("robust", "clean"), (adv, step.x), temperatures, strict=True)
    ]


def divergences(step, adv, temperatures, classes=1, log_eps=0.0, factor=1.0):
    found = []
    for target, x in zip(softened(step, adv, temperatures), (adv, step.x), strict=True):
        p = prob(target)
        rows = (p * (torch.log(p + log_eps) - torch.log(prob(step.student(x))))).sum(dim=1) / classes
        found.append(factor * rows.mean())
    return found


@pytest.mark.parametrize("scale", ["batch", "class"])
@pytest.mark.parametrize(("log_eps", "factor"), [(0.0, 1.0), (1e-5, 10.0)])
def test_terms_use_the_temperatures_from_before_and_the_weights_from_after(scale, log_eps, factor, monkeypatch):
    tell(monkeypatch)
    method = BMTARD(kl_scale=scale, log_eps=log_eps, factor=factor, balance_rate=0.5, temper_rate=0.25)
    old = torch.tensor([1.5, 4.0], dtype=torch.float64)
    initial = torch.tensor([1.0, 0.1], dtype=torch.float64)
    step = step_of(method)
    step.state.update(temperatures=old.clone(), initial=initial)
    losses = divergences(step, ADV, old, 4 if scale == "class" else 1, log_eps, factor)
    shares = [float(loss.detach() / start) for loss, start in zip(losses, initial, strict=True)]
    weight = 0.5 + 0.5 * (shares[0] / sum(shares) - 0.5)
    equal(only(method.losses(step)), {"adv": weight * losses[0], "clean": (1 - weight) * losses[1]}, step.student)
    entropies = [float(entropy(target).mean()) for target in softened(step, ADV, old)]
    assert step.state["entropies"].tolist() == pytest.approx(entropies)
    direction = 1 if entropies[0] > entropies[1] else -1
    assert step.state["temperatures"].tolist() == pytest.approx([1.5 - direction * 0.25, 4.0 + direction * 0.25])
    assert step.state["weights"].tolist() == pytest.approx([weight, 1 - weight]) != [0.5, 0.5]
    assert not any(value.requires_grad for value in step.state.values())


def test_memory_of_a_new_run():
    state = BMTARD().initial_state(step_of(BMTARD()))
    assert list(state) == ["weights", "initial", "relative", "temperatures", "entropies"]
    assert state["temperatures"].tolist() == [1, 1] and state["weights"].tolist() == [0.5, 0.5]
    assert state["entropies"].isnan().all() and state["initial"].isnan().all()


def test_a_trajectory_ends_at_the_bounds(monkeypatch):
    told = tell(monkeypatch)
    method = BMTARD(temper_rate=0.8, low=0.5, high=3.0)
    step = step_of(method)
    with torch.no_grad():  # a clean teacher far surer than the robust one can be made
        step.teachers["clean"].backbone[3].weight *= 50
    for seed in range(5):
        told.adv = images(seed=seed)
        only(method.losses(step_of(method, x=images(seed=seed), teachers=step.teachers, state=step.state)))
        assert (step.state["temperatures"] >= 0.5).all() and (step.state["temperatures"] <= 3.0).all()
    assert step.state["entropies"][0] > step.state["entropies"][1]
    assert step.state["temperatures"].tolist() == [0.5, 3.0]


@pytest.mark.parametrize("rate", [0.0, 0.025, 0.7])
def test_without_tempering_it_is_mtard_to_the_bit(rate, monkeypatch):
    told = tell(monkeypatch)
    methods = (MTARD(balance_rate=rate), BMTARD(balance_rate=rate, temper_rate=0.0))
    students = [network(), network()]
    states = [method.initial_state(step_of(method)) for method in methods]
    teachers = {"robust": freeze(network(1)), "clean": freeze(network(2))}
    for seed in range(4):
        told.adv = images(seed=seed + 10)
        found = []
        for method, student, state in zip(methods, students, states, strict=True):
            step = step_of(method, x=images(seed=seed), student=student, teachers=teachers, state=state)
            assert descend(noted(method.losses(step), found), student, rate=0.5) == 1
        assert found[0] == found[1]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in students), strict=True))
    assert states[1]["temperatures"].tolist() == [1, 1]


def test_rates_of_zero_are_fixed_weights_of_a_half(monkeypatch):
    told = tell(monkeypatch)
    method = BMTARD(balance_rate=0.0, temper_rate=0.0)
    state = method.initial_state(step_of(method))
    for seed in range(3):
        told.adv = images(seed=seed + 10)
        step = step_of(method, x=images(seed=seed), student=network(seed), state=state)
        adv, clean = divergences(step, told.adv, (1, 1))
        equal(only(method.losses(step)), {"adv": adv / 2, "clean": clean / 2}, step.student)


@pytest.mark.parametrize(("progress", "share"), [(0.4, 1.0), (0.5, 0.1), (0.9, 0.01)])
def test_both_rates_fall_at_the_drops(progress, share, monkeypatch):
    tell(monkeypatch)
    method = BMTARD(balance_rate=0.5, temper_rate=0.5, rate_drops=(0.5, 0.8))
    step = step_of(method, progress=progress)
    old = torch.tensor([4.0, 4.0], dtype=torch.float64)
    step.state.update(temperatures=old, initial=torch.tensor([1.0, 2.0], dtype=torch.float64))
    only(method.losses(step))
    assert (step.state["temperatures"] - old).abs().tolist() == pytest.approx([0.5 * share] * 2)
    wanted = float(step.state["relative"][0] / step.state["relative"].sum())
    assert float(step.state["weights"][0]) == pytest.approx(0.5 + 0.5 * share * (wanted - 0.5))


def test_the_power_sharpens_the_balance(monkeypatch):
    tell(monkeypatch)
    ends = []
    for power in (1.0, 3.0):
        step = step_of(BMTARD())
        step.state["initial"] = torch.tensor([1.0, 5.0], dtype=torch.float64)
        only(BMTARD(balance_rate=1.0, balance_power=power).losses(step))
        relative = step.state["relative"] ** power
        assert step.state["weights"].tolist() == pytest.approx((relative / relative.sum()).tolist())
        ends.append(float((step.state["weights"] - 0.5).abs()[0]))
    assert ends[0] < ends[1]


def test_the_search_maximises_cross_entropy_without_temperatures(monkeypatch):
    told = tell(monkeypatch)
    method = BMTARD(inner=PGD(start="normal", ramp=1.0))
    step = step_of(method, progress=0.5)
    robust, clean = (counting(step.teachers[role]) for role in ("robust", "clean"))
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.5)] and told.models == [step.student]
    maximises(told, lambda x: ce(step.student(x)))
    assert len(robust) == len(clean) == 1 and torch.equal(robust[0], ADV) and torch.equal(clean[0], X)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"balance_rate": 2.0}, r"balance_rate is a step towards a target and must be in \[0, 1\], got 2.0"),
        ({"temper_rate": -0.1}, "temperatures start at 1 .*, got temper_rate -0.1, low 1.0, high 10.0"),
        ({"low": 0.0}, "temperatures start at 1 .*, got temper_rate 0.001, low 0.0, high 10.0"),
        ({"low": 1.5}, "temperatures start at 1 .*, got temper_rate 0.001, low 1.5, high 10.0"),
        ({"high": 0.9}, "temperatures start at 1 .*, got temper_rate 0.001, low 1.0, high 0.9"),
        ({"factor": -1.0}, "factor is a weight and cannot be negative, got -1.0"),
        ({"log_eps": -1.0}, "log_eps is a weight and cannot be negative, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        BMTARD(**options)
