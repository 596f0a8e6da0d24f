import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.dgad import DGAD, corrected

from .by_hand import ADV, X, Y, equal, kl, maximises, only, prob, step_of, tell


def swapped(logits):
    """Return a copy in which each row's label and its greatest logit have changed places, row by row."""
    rows = [row.clone() for row in logits]
    for row, label in zip(rows, Y.tolist(), strict=True):
        greatest = int(row.argmax())
        row[label], row[greatest] = row[greatest].clone(), row[label].clone()
    return torch.stack(rows)


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("correct", [False, True])
def test_terms_are_the_formula(beta, correct, monkeypatch):
    """Written as the paper has it: shares of the batch times the means over each part."""
    tell(monkeypatch)
    method = DGAD(beta=beta, correct=correct)
    step = step_of(method)
    student, teacher = step.student, step.teachers["robust"]
    wrong = teacher(X).argmax(dim=1) != Y
    n, batch = int(wrong.sum()), len(Y)
    assert 0 < n < batch
    own, taught = (swapped(teacher(x)) if correct else teacher(x) for x in (X, ADV))
    apart = (prob(student(ADV)) - prob(student(X))) ** 2
    hand = {
        "adv": (batch - n) / batch * kl(taught[~wrong], student(ADV)[~wrong]).mean(),
        "clean": n / batch * kl(own[wrong], student(X)[wrong]).mean(),
        "consistency": beta * apart.mean(),
    }
    equal(only(method.losses(step)), hand, student)


def test_the_search_is_that_of_adaad(monkeypatch):
    told = tell(monkeypatch)
    method = DGAD(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    maximises(told, lambda x: kl(step.teachers["robust"](x), step.student(x)))


def test_a_corrected_answer_predicts_the_label_with_the_same_confidence():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = corrected(logits, Y)
    assert torch.equal(found, swapped(logits))
    assert torch.equal(found.argmax(dim=1), Y) and torch.equal(found.amax(dim=1), logits.amax(dim=1))
    assert torch.equal(corrected(found, Y), found)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"^beta is a weight and cannot be negative, got -1.0$"):
        DGAD(beta=-1.0)
