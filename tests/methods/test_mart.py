import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.mart import MART

from .by_hand import ADV, X, Y, ce, equal, kl, maximises, network, only, prob, step_of, tell, total


def by_hand(student, beta):
    clean, attacked = student(X), student(ADV)
    p = prob(attacked)
    others = torch.stack([torch.cat([row[:y], row[y + 1 :]]).max() for row, y in zip(p, Y, strict=True)])
    boosted = -torch.log(p[torch.arange(5), Y]) - torch.log(1 - others)
    unsure = 1 - prob(clean)[torch.arange(5), Y]
    return {"boosted": boosted.mean(), "robust": beta * (kl(clean, attacked) * unsure).mean()}


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_terms_are_the_formula(beta, monkeypatch):
    tell(monkeypatch)
    method = MART(beta=beta)
    step = step_of(method)
    equal(only(method.losses(step)), by_hand(step.student, beta), step.student)


def test_the_search_maximises_cross_entropy(monkeypatch):
    told = tell(monkeypatch)
    method = MART(inner=PGD(steps=3, ramp=1.0))
    step = step_of(method, progress=0.5)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.5)] and told.models == [step.student]
    maximises(told, lambda x: ce(step.student(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_is_certain_and_wrong_has_a_finite_loss(dtype, monkeypatch):
    tell(monkeypatch, ADV.to(dtype))
    student = network()
    with torch.no_grad():
        student.backbone[3].weight *= 1e4
    student.to(dtype)
    step = step_of(MART(), student=student, x=X.to(dtype))
    loss = total(only(MART().losses(step)))
    loss.backward()
    assert loss.isfinite() and all(weight.grad.isfinite().all() for weight in student.parameters())


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"^beta weighs the robust term and cannot be negative, got -0.5$"):
        MART(beta=-0.5)
