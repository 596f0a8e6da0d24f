from dataclasses import replace

import pytest
import torch

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.certified import propagated
from overproof.methods.staps import STAPS
from overproof.methods.taps import latent_loss

from .by_hand import ADV, X, Y, maximises, only, step_of, tell
from .by_relu import relu_network, worst_ce

SEARCH = PGD(eps=Radius("0.1"), ramp=0.4, steps=3)


def number(value):
    return value.detach().item()


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.4, 1.0)])
def test_it_is_the_loss_of_taps_over_the_small_box(progress, share, monkeypatch):
    tell(monkeypatch)
    method = STAPS(lam=0.4, inner=SEARCH)
    step = step_of(method, student=relu_network(), progress=progress)
    torch.manual_seed(0)
    found = only(method.losses(step))["certified"]
    torch.manual_seed(0)
    wanted = latent_loss(propagated(step.student, ADV, 0.4 * share * 0.1, "linf"), step, method)
    assert number(found) == pytest.approx(number(wanted), rel=1e-12)


def test_without_an_activation_behind_the_cut_it_is_the_square_of_sabr(monkeypatch):
    tell(monkeypatch)
    method = STAPS(lam=0.4, inner=replace(SEARCH, ramp=0.0), relus=0)
    step = step_of(method, student=relu_network())
    found = only(method.losses(step))["certified"]
    assert number(found) == pytest.approx(number(worst_ce(step.student, ADV, 0.04).mean()) ** 2, rel=1e-12)


def test_the_search_maximises_the_cross_entropy_where_the_small_box_leaves_room(monkeypatch):
    told = tell(monkeypatch)
    method = STAPS(lam=0.3, inner=SEARCH)
    step = step_of(method, student=relu_network(), progress=0.2)
    only(method.losses(step))
    (search,) = told.searches
    assert float(search.eps) == pytest.approx(0.7 * 0.5 * 0.1)
    maximises(told, lambda x: cross_entropy(step.student(x), Y))


def test_the_small_box_is_inside_the_ball():
    method = STAPS(lam=0.4, inner=replace(SEARCH, ramp=0.0, steps=5))
    step = step_of(method, student=relu_network())
    loss = number(only(method.losses(step))["certified"])
    assert loss < number(worst_ce(step.student, X, 0.1).mean()) ** 2
