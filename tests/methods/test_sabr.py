from dataclasses import replace

import pytest
import torch

from overproof.attacks.ball import Radius, ball
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods import sabr
from overproof.methods.certified import propagated
from overproof.methods.sabr import SABR

from .by_hand import ADV, X, Y, equal, looked, maximises, only, step_of, tell
from .by_relu import relu_network, worst_ce

SEARCH = PGD(eps=Radius("0.1"), ramp=0.4, steps=3)


@pytest.mark.parametrize("lam", [0.2, 0.7])
@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.4, 1.0)])
def test_terms_are_the_formula(lam, progress, share, monkeypatch):
    tell(monkeypatch)
    method = SABR(lam=lam, inner=SEARCH, balance=0.0, scaled_start=False)
    step = step_of(method, student=relu_network(), progress=progress)
    equal(
        only(method.losses(step)),
        {"certified": worst_ce(step.student, ADV, lam * share * 0.1).mean()},
        step.student,
    )


def test_the_search_maximises_the_cross_entropy_where_the_small_box_leaves_room(monkeypatch):
    told = tell(monkeypatch)
    method = SABR(lam=0.3, inner=SEARCH)
    step = step_of(method, student=relu_network(), progress=0.2)
    only(method.losses(step))
    (search,) = told.searches
    assert float(search.eps) == pytest.approx(0.7 * 0.5 * 0.1)
    assert search == replace(SEARCH.at(0.2), eps=search.eps)
    assert told.models == [step.student]
    maximises(told, lambda x: cross_entropy(step.student(x), Y))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_small_ball_is_inside_the_large_one(norm, seed, monkeypatch):
    seen = []
    monkeypatch.setattr(sabr, "propagated", lambda *args: seen.append(args) or propagated(*args))
    method = SABR(lam=0.4, inner=replace(SEARCH, norm=norm, ramp=0.0))
    torch.manual_seed(seed)
    only(method.losses(step_of(method, student=relu_network())))
    ((_, adv, eps, _),) = seen
    assert ball(norm, 0.1).size(adv - X).max() + eps <= 0.1 + 1e-12
    assert eps == pytest.approx(0.04)
    assert not torch.allclose(adv, X, atol=0.02)


def test_it_is_at_least_the_attacked_loss_and_at_most_that_of_the_whole_ball():
    method = SABR(lam=0.4, inner=replace(SEARCH, ramp=0.0, steps=10), scaled_start=False)
    step = step_of(method, student=relu_network())
    adv = method.inner(step.student, X, lambda x: cross_entropy(step.student(x), Y))
    found = only(method.losses(step))["certified"]
    assert cross_entropy(step.student(adv), Y).mean() < found < worst_ce(step.student, X, 0.1).mean()


def test_batchnorm_learns_from_the_clean_batch_once(make_step):
    method = SABR(inner=PGD(steps=1))
    step = make_step(method)
    only(method.losses(step))
    assert looked(step.student) == 1


def test_the_regulariser_fades_and_the_start_is_scaled():
    method = SABR(inner=SEARCH, scaled_start=True, balance=0.5)
    step = step_of(method, student=relu_network(), progress=0.0)
    weight = step.student.backbone[0].weight.detach().clone()
    assert set(only(method.losses(step))) == {"certified", "balance"}
    assert not torch.equal(step.student.backbone[0].weight, weight)
    assert set(only(method.losses(replace(step, progress=0.4)))) == {"certified"}


@pytest.mark.parametrize("lam", [0.0, 1.0, -1.0])
def test_a_box_without_a_size_or_without_room_is_refused(lam):
    with pytest.raises(ValueError, match=f"^lam is the box's share of eps, above 0 and below 1, got {lam}; 1 would be"):
        SABR(lam=lam)


def test_a_norm_without_bounds_is_refused():
    with pytest.raises(ValueError, match="not for l1"):
        SABR(inner=PGD(norm="l1", eps=Radius("1")))
