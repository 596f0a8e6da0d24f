from dataclasses import replace

import pytest
import torch

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.methods.mtl_ibp import MTLIBP

from .by_hand import ADV, X, Y, ce, equal, looked, maximises, only, step_of, tell, total
from .by_relu import relu_network, worst_ce

SEARCH = PGD(eps=Radius("0.1"), ramp=0.4, steps=3)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.4, 1.0)])
def test_terms_are_the_formula(alpha, progress, share, monkeypatch):
    tell(monkeypatch)
    method = MTLIBP(alpha=alpha, inner=SEARCH, balance=0.0, scaled_start=False)
    step = step_of(method, student=relu_network(), progress=progress)
    hand = {
        "adv": (1 - alpha) * ce(step.student(ADV)).mean(),
        "certified": alpha * worst_ce(step.student, X, share * 0.1).mean(),
    }
    equal(only(method.losses(step)), hand, step.student)


def test_the_search_maximises_the_cross_entropy_in_the_whole_ball(monkeypatch):
    told = tell(monkeypatch)
    method = MTLIBP(inner=SEARCH)
    step = step_of(method, student=relu_network(), progress=0.2)
    only(method.losses(step))
    assert told.searches == [SEARCH.at(0.2)] and told.models == [step.student]
    maximises(told, lambda x: cross_entropy(step.student(x), Y))


def test_it_rises_with_alpha_from_the_attacked_to_the_proven_loss():
    found = []
    for alpha in (0.0, 0.25, 0.5, 1.0):
        method = MTLIBP(alpha=alpha, inner=replace(SEARCH, ramp=0.0, start="none"), scaled_start=False)
        found.append(float(total(only(method.losses(step_of(method, student=relu_network())))).detach()))
    assert found == sorted(found) and found[0] < found[-1] - 0.01
    torch.testing.assert_close(found[2], (found[0] + found[3]) / 2)


def test_batchnorm_learns_from_the_attacked_batch_once(make_step):
    method = MTLIBP(inner=PGD(steps=1))
    step = make_step(method)
    only(method.losses(step))
    assert looked(step.student) == 1


def test_the_regulariser_fades_and_the_start_is_scaled():
    method = MTLIBP(inner=SEARCH, scaled_start=True, balance=0.5)
    step = step_of(method, student=relu_network(), progress=0.0)
    weight = step.student.backbone[0].weight.detach().clone()
    assert set(only(method.losses(step))) == {"adv", "certified", "balance"}
    assert not torch.equal(step.student.backbone[0].weight, weight)
    assert set(only(method.losses(replace(step, progress=0.4)))) == {"adv", "certified"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha is a share and must be in \[0, 1\], got 1.5"),
        ({"inner": PGD(norm="l1", eps=Radius("1"))}, "there are bounds for the norms linf and l2, not for l1"),
        ({"balance": -0.5}, "balance is a weight and cannot be negative, got -0.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MTLIBP(**options)
