import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.adaiad import AdaIAD

from .by_hand import ADV, X, Y, ce, counting, equal, kl, looked, maximises, only, prob, step_of, tell


def by_hand(step, alpha=1.0, t=30.0, beta=0.1, weigh=True, detach=True, warm=True, idle=False):
    student, teacher = step.student, step.teachers["robust"]
    trust = prob(teacher(ADV))[torch.arange(5), Y] ** beta
    distil = t**2 * kl(teacher(ADV), student(ADV), t)  # unlike IAD, the target is the answer to the same image
    own = student(X).detach() if detach else student(X)
    hand = {"teacher": alpha * (distil * (trust if weigh and warm else 1)).mean()}
    if warm:
        hand["self"] = alpha * ((1 - trust) * kl(own, student(ADV))).mean()
    if alpha < 1 or idle:
        hand["label"] = (1 - alpha) * ce(student(X)).mean()
    return hand


@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("alpha", "t", "beta"), [(1.0, 30.0, 0.1), (0.6, 5.0, 0.5), (0.0, 1.0, 0.0)])
def test_terms_are_the_formula(weigh, detach, alpha, t, beta, monkeypatch):
    tell(monkeypatch)
    method = AdaIAD(alpha=alpha, temperature=t, beta=beta, weigh_teacher=weigh, detach_self=detach)
    step = step_of(method)
    equal(only(method.losses(step)), by_hand(step, alpha, t, beta, weigh, detach), step.student)


@pytest.mark.parametrize(("progress", "warm"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True)])
def test_trust_begins_after_the_warm_up_and_the_teacher_is_asked_once(progress, warm, monkeypatch):
    tell(monkeypatch)
    step = step_of(AdaIAD(), progress=progress)
    asked = counting(step.teachers["robust"])
    found = only(AdaIAD(alpha=0.8, warmup=0.5).losses(step))
    assert len(asked) == 1 and torch.equal(asked[0], ADV)
    equal(found, by_hand(step, 0.8, warm=warm), step.student)


def test_the_search_maximises_through_both_networks(monkeypatch):
    told = tell(monkeypatch)
    method = AdaIAD(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    maximises(told, lambda x: kl(step.teachers["robust"](x), step.student(x)))


def test_idle_passes_change_no_number(monkeypatch):
    tell(monkeypatch)
    step = step_of(AdaIAD())
    hand = by_hand(step, idle=True)
    asked = counting(step.student)
    equal(only(AdaIAD(idle_forwards="official").losses(step)), hand, step.student)
    assert [torch.equal(x, ADV) for x in asked] == [False, True, False, False]


@pytest.mark.parametrize(("idle", "times"), [("none", 2), ("official", 4)])
def test_idle_passes_move_batchnorm(idle, times, monkeypatch, make_step):
    step = make_step(AdaIAD())
    tell(monkeypatch, step.x)
    only(AdaIAD(idle_forwards=idle).losses(step))
    assert looked(step.student) == times


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 2.0}, r"alpha is the share of the distillation term and must be in \[0, 1\], got 2.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"beta": -0.1}, "beta is the power of the teacher's probability and cannot be negative, got -0.1"),
        ({"warmup": 1.1}, r"warmup is a share of the run, in \[0, 1\], got 1.1"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        AdaIAD(**options)
