import pytest
import torch

from overproof.methods.lbgat import LBGAT

from .by_hand import ADV, X, ce, counting, equal, kl, maximises, only, step_of, tell


@pytest.mark.parametrize("beta", [0.0, 6.0])
@pytest.mark.parametrize("guide", [0.5, 1.0])
def test_terms_are_the_formula_and_their_gradient_reaches_both_networks(beta, guide, monkeypatch):
    tell(monkeypatch)
    method = LBGAT(beta=beta, guide=guide)
    step = step_of(method)
    student, guiding = step.student, step.auxiliary_models["guide"]
    hand = {
        "guide": guide * ((student(ADV) - guiding(X)) ** 2).sum() / (5 * 4),
        "label": ce(guiding(X)).mean(),
    }
    if beta:
        hand["robust"] = beta * kl(student(X), student(ADV)).mean()
    equal(only(method.losses(step)), hand, student, guiding)


def test_the_search_is_that_of_trades_and_the_guide_sees_the_clean_image_only(monkeypatch):
    told = tell(monkeypatch)
    step = step_of(LBGAT())
    asked = counting(step.auxiliary_models["guide"])
    only(LBGAT().losses(step))
    assert len(asked) == 1 and torch.equal(asked[0], X)
    around = step.student(X).detach()
    maximises(told, lambda x: kl(around, step.student(x)))


@pytest.mark.parametrize("name", ["beta", "guide"])
def test_bad_options_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} is a weight and cannot be negative, got -1.0$"):
        LBGAT(**{name: -1.0})
