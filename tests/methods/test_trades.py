import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.trades import TRADES

from .by_hand import ADV, X, ce, equal, gradients, kl, looked, maximises, network, only, step_of, tell, total


def by_hand(student, beta, detach):
    clean, attacked = student(X), student(ADV)
    target = clean.detach() if detach else clean
    return {"label": ce(clean).mean(), "robust": beta * kl(target, attacked).mean()}


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("again", ["shared", "again"])
def test_terms_are_the_formula(beta, detach, again, monkeypatch):
    tell(monkeypatch)
    method = TRADES(beta=beta, detach_target=detach, clean_target_forward=again)
    step = step_of(method)
    equal(only(method.losses(step)), by_hand(step.student, beta, detach), step.student)


def test_a_detached_target_changes_the_gradient_and_not_the_value(monkeypatch):
    tell(monkeypatch)
    student = network()
    free, held = (
        total(only(TRADES(detach_target=d).losses(step_of(TRADES(), student=student)))) for d in (False, True)
    )
    assert free == held
    assert not torch.allclose(gradients(free, student)[0], gradients(held, student)[0], rtol=1e-3)


def test_the_search_maximises_the_divergence_from_ones_own_clean_answer(monkeypatch):
    told = tell(monkeypatch)
    method = TRADES(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    around = step.student(X).detach()
    maximises(told, lambda x: kl(around, step.student(x)))


@pytest.mark.parametrize(("again", "times"), [("shared", 2), ("again", 3)])
def test_a_second_clean_pass_moves_batchnorm_once_more(again, times, monkeypatch, make_step):
    step = make_step(TRADES())
    tell(monkeypatch, step.x)
    only(TRADES(clean_target_forward=again).losses(step))
    assert looked(step.student) == times


@pytest.mark.parametrize(("mode", "times"), [("eval", 2), ("train", 3)])
def test_the_target_of_the_search_is_asked_for_in_the_mode_of_the_search(mode, times, monkeypatch, make_step, modes):
    step = make_step(TRADES())
    told = tell(monkeypatch, step.x)
    step.student.backbone[1].eval()
    before = modes(step.student)
    only(TRADES(inner=PGD(start="normal", mode=mode)).losses(step))
    assert modes(step.student) == before
    batch_norm = step.student.backbone[4]
    assert int(batch_norm.num_batches_tracked) == times
    assert len(told.objectives) == 1


def test_a_real_search_finds_more_divergence_than_the_clean_image():
    method = TRADES(inner=PGD(start="normal", steps=5))
    assert only(method.losses(step_of(method)))["robust"] > 1e-3


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"^beta weighs the robust term and cannot be negative, got -1$"):
        TRADES(beta=-1)
