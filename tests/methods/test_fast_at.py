import pytest
import torch

from overproof.attacks.ball import Linf, Radius
from overproof.attacks.pgd import PGD
from overproof.methods.fast_at import FastAT

from .by_hand import X, ce, draw, equal, maximises, only, step_of, tell

EPS = 8 / 255


@pytest.mark.parametrize("reach", [0.5, 1.25, 2.0])
def test_one_step_from_a_uniform_start(reach, monkeypatch):
    start = EPS * (2 * torch.rand(X.shape, generator=draw(1), dtype=torch.float64) - 1)
    monkeypatch.setattr(Linf, "uniform", lambda self, x: start)
    method = FastAT(reach=reach)
    step = step_of(method)
    point = torch.clamp(X + start, 0, 1).requires_grad_()
    (slope,) = torch.autograd.grad(ce(step.student(point)).sum(), point)
    adv = torch.clamp(point.detach() + reach * EPS * torch.sign(slope), 0, 1)
    adv = torch.clamp(torch.minimum(torch.maximum(adv, X - EPS), X + EPS), 0, 1)
    equal(only(method.losses(step)), {"adv": ce(step.student(adv)).mean()}, step.student)


def test_the_step_follows_eps_as_eps_grows(monkeypatch):
    told = tell(monkeypatch)
    method = FastAT(reach=1.5, inner=PGD(steps=1, eps=Radius("0.2"), ramp=0.8))
    step = step_of(method, progress=0.4)
    only(method.losses(step))
    (search,) = told.searches
    assert (search.eps, search.step) == pytest.approx((0.1, 0.15)) and told.models == [step.student]
    maximises(told, lambda x: ce(step.student(x)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"inner": PGD(steps=10)}, "fast_at takes one step; for 10 use pgd_at"),
        ({"reach": 0.0}, "reach is the step in units of eps and must be positive, got 0.0"),
        ({"reach": -1.0}, "reach is the step in units of eps and must be positive, got -1.0"),
        (
            {"inner": PGD(steps=1, step=Radius("2/255"))},
            "fast_at steps by reach times eps; say reach, not inner.step",
        ),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        FastAT(**options)
