import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.hat import HAT

from .by_hand import ADV, X, Y, ce, counting, equal, kl, maximises, only, step_of, tell


@pytest.mark.parametrize(("beta", "gamma", "reach"), [(2.5, 0.5, 3.5), (6.0, 1.0, 2.0), (0.0, 0.0, 1.5)])
def test_terms_are_the_formula(beta, gamma, reach, monkeypatch):
    tell(monkeypatch)
    method = HAT(beta=beta, gamma=gamma, reach=reach)
    step = step_of(method)
    student, teacher = step.student, step.teachers["clean"]
    helper = X + reach * (ADV - X)
    hand = {
        "label": ce(student(X)).mean(),
        "robust": beta * kl(student(X), student(ADV)).mean(),
        "helper": gamma * ce(student(helper), teacher(ADV).argmax(dim=1)).mean(),
    }
    equal(only(method.losses(step)), hand, student)
    assert not torch.equal(teacher(ADV).argmax(dim=1), Y)  # or the teacher's labels could be those of the images


def test_the_search_is_that_of_trades_and_the_helper_is_not_clipped(monkeypatch):
    told = tell(monkeypatch)
    method = HAT(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    asked, taught = counting(step.student), counting(step.teachers["clean"])
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)]
    assert torch.equal(asked[-1], X + 3.5 * (ADV - X)) and (asked[-1].min() < 0 or asked[-1].max() > 1)
    assert len(taught) == 1 and torch.equal(taught[0], ADV)
    around = step.student(X).detach()
    maximises(told, lambda x: kl(around, step.student(x)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"beta": -1.0}, "beta is a weight and cannot be negative, got -1.0"),
        ({"gamma": -0.5}, "gamma is a weight and cannot be negative, got -0.5"),
        ({"reach": 1.0}, "reach is how far a helper lies, in lengths of x' - x, and above 1, got 1.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HAT(**options)
