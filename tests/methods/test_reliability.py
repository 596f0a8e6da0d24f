import pytest
import torch

from overproof.methods.iad import IAD
from overproof.methods.reliability import check_introspection, introspective_terms, reliability

from .by_hand import ADV, X, Y, ce, counting, equal, kl, prob, step_of

OPTIONS = {"alpha": 0.7, "temperature": 3.0, "weigh_teacher": True, "detach_self": True, "official": False}


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 3.0])
def test_reliability_is_a_power_of_the_probability_of_the_label(beta):
    z = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(reliability(z, Y, beta), prob(z)[torch.arange(5), Y] ** beta)


@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("alpha", [0.7, 1.0])
def test_terms_are_the_formula(weigh, detach, official, alpha):
    step = step_of(IAD())
    student, target = step.student, step.teachers["robust"](X)
    trust = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    own = student(X).detach() if detach else student(X)
    teacher = 9 * kl(target, student(ADV), 3.0)
    hand = {
        "teacher": alpha * ((trust if weigh else 1) * teacher).mean(),
        "self": alpha * ((1 - trust) * kl(own, student(ADV))).mean(),
    }
    if official or alpha < 1:
        hand["label"] = (1 - alpha) * ce(student(X)).mean()
    asked = counting(student)
    options = {**OPTIONS, "alpha": alpha, "weigh_teacher": weigh, "detach_self": detach, "official": official}
    found = introspective_terms(step, student(ADV), target, trust, **options)
    assert len(asked) == (3 if official else 2)  # the attacked pass, one for oneself, and the official code's own label
    equal(found, hand, student)


def test_without_trust_there_is_no_term_for_oneself():
    step = step_of(IAD())
    student, target = step.student, step.teachers["robust"](X)
    hand = {"teacher": 0.7 * 9 * kl(target, student(ADV), 3.0).mean(), "label": 0.3 * ce(student(X)).mean()}
    equal(introspective_terms(step, student(ADV), target, None, **OPTIONS), hand, student)
    asked = counting(student)
    assert list(introspective_terms(step, student(ADV), target, None, **{**OPTIONS, "alpha": 1.0})) == ["teacher"]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((1.5, 1, 1, 0), r"alpha is the share of the distillation term and must be in \[0, 1\], got 1.5"),
        ((1, 0, 1, 0), "temperature must be positive, got 0"),
        ((1, 1, -1, 0), "beta is the power of the teacher's probability and cannot be negative, got -1"),
        ((1, 1, 1, 60), r"warmup is a share of the run, in \[0, 1\], got 60"),
        ((1, 1, 1, -0.1), r"warmup is a share of the run, in \[0, 1\], got -0.1"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        check_introspection(*options)
