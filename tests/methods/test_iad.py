import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.iad import IAD

from .by_hand import ADV, X, Y, ce, counting, equal, kl, looked, maximises, network, only, prob, step_of, tell


def by_hand(step, alpha=1.0, t=1.0, beta=0.1, weigh=True, detach=True, warm=True, idle=False):
    student, teacher = step.student, step.teachers["robust"]
    trust = prob(teacher(ADV))[torch.arange(5), Y] ** beta
    distil = t**2 * kl(teacher(X), student(ADV), t)
    own = student(X).detach() if detach else student(X)
    hand = {"teacher": alpha * (distil * (trust if weigh and warm else 1)).mean()}
    if warm:
        hand["self"] = alpha * ((1 - trust) * kl(own, student(ADV))).mean()
    if alpha < 1 or idle:
        hand["label"] = (1 - alpha) * ce(student(X)).mean()
    return hand


@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("alpha", "t", "beta"), [(1.0, 1.0, 0.1), (0.6, 5.0, 0.5), (0.0, 1.0, 0.0)])
def test_terms_are_the_formula(weigh, detach, alpha, t, beta, monkeypatch):
    tell(monkeypatch)
    method = IAD(alpha=alpha, temperature=t, beta=beta, weigh_teacher=weigh, detach_self=detach)
    step = step_of(method)
    equal(only(method.losses(step)), by_hand(step, alpha, t, beta, weigh, detach), step.student)


def test_the_teacher_is_weighed_where_asked_for(monkeypatch):
    tell(monkeypatch)
    student = network()
    terms = [only(IAD(weigh_teacher=w, beta=1.0).losses(step_of(IAD(), student=student))) for w in (True, False)]
    assert terms[0]["teacher"] < terms[1]["teacher"] and terms[0]["self"] == terms[1]["self"]


@pytest.mark.parametrize(("progress", "warm"), [(0.0, False), (0.29, False), (0.3, True), (1.0, True)])
def test_it_is_ard_until_warm(progress, warm, monkeypatch):
    tell(monkeypatch)
    step = step_of(IAD(), progress=progress)
    asked = counting(step.teachers["robust"])
    found = only(IAD(alpha=0.8).losses(step))
    assert len(asked) == (2 if warm else 1)
    equal(found, by_hand(step, 0.8, warm=warm), step.student)


def test_the_search_maximises_cross_entropy(monkeypatch):
    told = tell(monkeypatch)
    method = IAD(inner=PGD(steps=3, ramp=1.0))
    step = step_of(method, progress=0.5)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.5)] and told.models == [step.student]
    maximises(told, lambda x: ce(step.student(x)))


def test_idle_passes_change_no_number(monkeypatch):
    tell(monkeypatch)
    step = step_of(IAD())
    hand = by_hand(step, idle=True)
    asked = counting(step.student)
    equal(only(IAD(idle_forwards="official").losses(step)), hand, step.student)
    assert [torch.equal(x, ADV) for x in asked] == [True, True, False, False]


@pytest.mark.parametrize(("idle", "times"), [("none", 2), ("official", 4)])
def test_idle_passes_move_batchnorm(idle, times, monkeypatch, make_step):
    step = make_step(IAD())
    tell(monkeypatch, step.x)
    only(IAD(idle_forwards=idle).losses(step))
    assert looked(step.student) == times


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 2.0}, r"alpha is the share of the distillation term and must be in \[0, 1\], got 2.0"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"beta": -0.1}, "beta is the power of the teacher's probability and cannot be negative, got -0.1"),
        ({"warmup": 60}, r"warmup is a share of the run, in \[0, 1\], got 60"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        IAD(**options)
