import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.rslad import RSLAD

from .by_hand import ADV, X, counting, equal, kl, maximises, only, prob, step_of, tell


def divergence(target, z, classes, log_eps):
    p = prob(target)
    return (p * (torch.log(p + log_eps) - torch.log(prob(z)))).sum(dim=1) / classes


@pytest.mark.parametrize("alpha", [0.0, 5 / 6, 1.0])
@pytest.mark.parametrize("scale", ["batch", "class"])
@pytest.mark.parametrize(("log_eps", "factor"), [(0.0, 1.0), (1e-5, 1.0), (0.1, 10.0)])
def test_terms_are_the_formula(alpha, scale, log_eps, factor, monkeypatch):
    tell(monkeypatch)
    method = RSLAD(alpha=alpha, kl_scale=scale, log_eps=log_eps, factor=factor)
    step = step_of(method)
    target, student, classes = step.teachers["robust"](X), step.student, 4 if scale == "class" else 1
    hand = {
        "adv": factor * alpha * divergence(target, student(ADV), classes, log_eps).mean(),
        "clean": factor * (1 - alpha) * divergence(target, student(X), classes, log_eps).mean(),
    }
    equal(only(method.losses(step)), hand, student)


def test_the_search_maximises_the_divergence_from_the_teachers_clean_answer(monkeypatch):
    told = tell(monkeypatch)
    method = RSLAD(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    asked = counting(step.teachers["robust"])
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    target = step.teachers["robust"](X)
    del asked[:]
    maximises(told, lambda x: kl(target, step.student(x)))
    assert not asked


def test_the_teacher_is_asked_once_and_about_the_clean_image():
    step = step_of(RSLAD())
    asked = counting(step.teachers["robust"])
    only(RSLAD(inner=PGD(steps=4)).losses(step))
    assert len(asked) == 1 and torch.equal(asked[0], X)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.01}, r"alpha is the share of the distillation term and must be in \[0, 1\], got 1.01"),
        ({"alpha": -0.01}, r"alpha is the share of the distillation term and must be in \[0, 1\], got -0.01"),
        ({"factor": -1.0}, "factor is a weight and cannot be negative, got -1.0"),
        ({"log_eps": -1e-5}, "log_eps is a weight and cannot be negative, got -1e-05"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        RSLAD(**options)
