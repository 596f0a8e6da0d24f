import pytest
import torch

from overproof.attacks.ball import Radius, Threat
from overproof.methods.n_fgsm import NFGSM

from .by_hand import X, Y, ce, counting, looked, only, step_of

EPS = Threat(norm="linf", eps=Radius("0.1"))


@pytest.mark.parametrize(("noise", "reach"), [(2.0, 1.0), (0.0, 1.25), (1.0, 0.5)])
def test_the_step_and_the_term_are_the_formula(noise, reach):
    method = NFGSM(noise=noise, reach=reach, threat=EPS)
    step = step_of(method)
    asked = counting(step.student)
    torch.manual_seed(0)
    terms = only(method.losses(step))
    noisy, adv = asked
    assert (noisy - X).abs().max() <= noise * 0.1 + 1e-12
    point = noisy.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ce(step.student(point)).sum(), point)
    torch.testing.assert_close(adv, (noisy + reach * 0.1 * gradient.sign()).clamp(0, 1))
    torch.testing.assert_close(terms["adv"], ce(step.student(adv), Y).mean())


def test_the_perturbation_may_leave_the_ball_and_not_the_range_of_pixels():
    method = NFGSM(threat=EPS)
    step = step_of(method)
    asked = counting(step.student)
    only(method.losses(step))
    adv = asked[-1]
    assert (adv - X).abs().max() > 0.15 and adv.min() >= 0 and adv.max() <= 1


def test_under_l2_noise_and_step_are_so_long():
    method = NFGSM(threat=Threat(norm="l2", eps=Radius("0.05")))
    inside = X.clamp(0.3, 0.7)  # where nothing is clamped
    step = step_of(method, x=inside)
    asked = counting(step.student)
    only(method.losses(step))
    noisy, adv = asked
    assert ((noisy - inside).flatten(1).norm(dim=1) <= 0.1 + 1e-12).all()
    torch.testing.assert_close((adv - noisy).flatten(1).norm(dim=1), torch.full((5,), 0.05).double())


@pytest.mark.parametrize(("mode", "moved"), [("eval", 1), ("train", 2)])
def test_batchnorm_moves_in_the_first_pass_in_train_mode_only(mode, moved, make_step):
    step = make_step(NFGSM())
    before = looked(step.student)
    only(NFGSM(mode=mode).losses(step))
    assert looked(step.student) - before == moved


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": -1.0}, "noise and reach are in units of eps, 0 or more and above 0, got -1.0 and 1.0"),
        ({"reach": 0.0}, "noise and reach are in units of eps, 0 or more and above 0, got 2.0 and 0.0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        NFGSM(**options)
