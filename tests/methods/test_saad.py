import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.saad import SAAD

from .by_hand import ADV, X, Y, counting, entropy, equal, kl, maximises, only, step_of, tell


def by_hand(step, scale, gradient_weight, clean_weight):
    student, teacher, mirrored = step.student, step.teachers["robust"], 2 * X - ADV
    unsure = entropy(teacher(ADV))
    weight = scale * (unsure - unsure.min())
    slopes = kl(teacher(ADV) - teacher(mirrored), student(ADV) - student(mirrored))
    hand = {
        "adv": (weight * kl(teacher(ADV), student(ADV))).mean(),
        "gradient": gradient_weight * step.progress * (weight * slopes).mean(),
    }
    if clean_weight:
        sure = 1 - weight / (weight.max() + 1e-8)
        hand["clean"] = clean_weight * (sure * kl(teacher(X), student(X))).mean()
    return hand


@pytest.mark.parametrize("scale", [5.0, 1.0, 0.0])
@pytest.mark.parametrize(("gradient_weight", "clean_weight"), [(1.0, 0.0), (0.0, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("progress", [1.0, 0.25])
def test_terms_are_the_formula(scale, gradient_weight, clean_weight, progress, monkeypatch):
    tell(monkeypatch)
    method = SAAD(entropy_scale=scale, gradient_weight=gradient_weight, clean_weight=clean_weight)
    step = step_of(method, progress=progress)
    equal(only(method.losses(step)), by_hand(step, scale, gradient_weight, clean_weight), step.student)


def test_the_most_certain_example_has_weight_zero(monkeypatch):
    """Moving the student's answer to that example alone changes nothing."""
    tell(monkeypatch)
    step = step_of(SAAD())
    unsure = entropy(step.teachers["robust"](ADV))
    sure = int(unsure.argmin())
    for index in range(5):
        nudge = torch.zeros(5, 4, dtype=torch.float64)
        nudge[index, 0] = 10.0
        calm = only(SAAD().losses(step))
        handle = step.student.register_forward_hook(lambda _, args, z, nudge=nudge: z + nudge)
        moved = only(SAAD().losses(step))
        handle.remove()
        assert torch.isclose(moved["adv"], calm["adv"], rtol=1e-12) == (index == sure)


@pytest.mark.parametrize("correction", [0.0, 1.0, 2.5])
def test_the_search_maximises_the_corrected_divergence(correction, monkeypatch):
    told = tell(monkeypatch)
    method = SAAD(correction=correction, inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    teacher, point = step.teachers["robust"], X.clone().requires_grad_()
    rows = torch.arange(5)
    (slope,) = torch.autograd.grad(teacher(point)[rows, Y].sum(), point)

    def score(x):
        target = teacher(X).clone()
        logit = target[rows, Y] + correction * (slope * (x - X)).sum(dim=(1, 2, 3))
        columns = [torch.where(k == Y, logit, target[:, k]) for k in range(4)]
        return kl(torch.stack(columns, dim=1), step.student(x))

    maximises(told, score)
    # The correction is exact to first order.
    near = X + 1e-6 * slope
    linear = teacher(X)[rows, Y] + (slope * (near - X)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(linear, teacher(near)[rows, Y], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("clean_weight", "students"), [(0.0, 2), (1.0, 3)])
def test_one_input_gradient_of_the_teacher_per_batch(clean_weight, students, monkeypatch):
    told = tell(monkeypatch)
    step = step_of(SAAD())
    teacher, student = step.teachers["robust"], step.student
    slopes = []

    def hook(_, args, z):
        if z.requires_grad:
            z.register_hook(slopes.append)

    teacher.register_forward_hook(hook)
    asked, answered = counting(teacher), counting(student)
    terms = only(SAAD(clean_weight=clean_weight).losses(step))
    for _ in range(3):
        told.objectives[0](ADV.clone().requires_grad_()).sum().backward()
    sum(terms.values()).backward()
    assert len(slopes) == 1
    assert [torch.equal(x, X) for x in asked] == [True, False, False]
    assert torch.equal(asked[1], ADV) and torch.equal(asked[2], X - (ADV - X))
    assert len(answered) == students + 3


def test_a_batch_of_equal_certainty_weighs_nothing(monkeypatch):
    tell(monkeypatch, ADV[:1])
    step = step_of(SAAD(), x=X[:1], y=Y[:1])
    terms = only(SAAD(clean_weight=1.0).losses(step))
    assert terms["adv"] == 0 and terms["gradient"] == 0 and terms["clean"] > 0


@pytest.mark.parametrize("name", ["entropy_scale", "gradient_weight", "clean_weight"])
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} is a weight and cannot be negative, got -1.0$"):
        SAAD(**{name: -1.0})
