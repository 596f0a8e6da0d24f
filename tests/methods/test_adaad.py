import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD

from .by_hand import ADV, X, counting, equal, kl, looked, maximises, only, step_of, tell


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("scale", ["batch", "class"])
@pytest.mark.parametrize("forward", ["needed", "always"])
def test_terms_are_the_formula(alpha, scale, forward, monkeypatch):
    tell(monkeypatch)
    method = AdaAD(alpha=alpha, kl_scale=scale, clean_forward=forward)
    step = step_of(method)
    student, teacher, classes = step.student, step.teachers["robust"], 4 if scale == "class" else 1
    hand = {"adv": alpha * kl(teacher(ADV), student(ADV)).mean() / classes}
    if alpha < 1:
        hand["clean"] = (1 - alpha) * kl(teacher(X), student(X)).mean() / classes
    equal(only(method.losses(step)), hand, student)


def test_the_search_maximises_through_both_networks(monkeypatch):
    told = tell(monkeypatch)
    method = AdaAD(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    maximises(told, lambda x: kl(step.teachers["robust"](x), step.student(x)))


def test_with_the_clean_target_the_search_asks_the_teacher_once(monkeypatch):
    told = tell(monkeypatch)
    method = AdaAD(alpha=0.6, search_target="clean")
    step = step_of(method)
    student, teacher = step.student, step.teachers["robust"]
    asked = counting(teacher)
    terms = only(method.losses(step))
    assert [torch.equal(x, X) for x in asked] == [True, False]  # its answers to the search, and to what it found
    hand = {"adv": 0.6 * kl(teacher(ADV), student(ADV)).mean(), "clean": 0.4 * kl(teacher(X), student(X)).mean()}
    equal(terms, hand, student)
    maximises(told, lambda x: kl(teacher(X), student(x)))


@pytest.mark.parametrize(
    ("alpha", "forward", "clean"), [(1.0, "needed", 0), (1.0, "always", 1), (0.5, "needed", 1), (0.5, "always", 1)]
)
def test_the_clean_pass_comes_first_where_there_is_one(alpha, forward, clean, monkeypatch):
    tell(monkeypatch)
    step = step_of(AdaAD())
    asked, teacher = counting(step.student), counting(step.teachers["robust"])
    only(AdaAD(alpha=alpha, clean_forward=forward).losses(step))
    assert [torch.equal(x, X) for x in asked] == [True] * clean + [False]
    assert len(teacher) == (2 if alpha < 1 else 1)


@pytest.mark.parametrize(("forward", "times"), [("needed", 1), ("always", 2)])
def test_the_idle_clean_pass_moves_batchnorm(forward, times, monkeypatch, make_step):
    step = make_step(AdaAD())
    tell(monkeypatch, step.x)
    only(AdaAD(clean_forward=forward).losses(step))
    assert looked(step.student) == times


@pytest.mark.parametrize("alpha", [-0.5, 1.5])
def test_a_bad_share_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"^alpha is the share .* must be in \[0, 1\], got {alpha}$"):
        AdaAD(alpha=alpha)
