import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from overproof.functional import cosine, cross_entropy, difference, dlr, entropy, kl, margin, targeted_dlr

FAR_APART = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, -200.0], [-200.0, 0.0, 200.0]])
LABELS = torch.tensor([0, 1, 0])
TARGETS = torch.tensor([1, 2, 2])


@st.composite
def logits(draw, count=1, least=2):
    """Return ``count`` tensors [N, K] of eighths, which add and compare without rounding."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(least, 9))
    rows = st.lists(st.lists(st.integers(-80, 80), min_size=k, max_size=k), min_size=n, max_size=n)
    drawn = [torch.tensor(draw(rows), dtype=torch.float64) / 8 for _ in range(count)]
    return drawn[0] if count == 1 else drawn


def labels_for(z, draw):
    return torch.tensor([draw.draw(st.integers(0, z.shape[1] - 1)) for _ in z])


def by_hand(z):
    return z.exp() / z.exp().sum(dim=1, keepdim=True)


@given(logits(), st.data())
def test_cross_entropy_is_the_surprise_at_the_label(z, data):
    y = labels_for(z, data)
    torch.testing.assert_close(cross_entropy(z, y), -by_hand(z).gather(1, y[:, None]).log().squeeze(1))


def test_smoothing_mixes_the_label_with_the_uniform_distribution():
    z, y = torch.randn(5, 7).double(), torch.arange(5)
    surprise = -by_hand(z).log()
    expected = 0.8 * surprise[range(5), y] + 0.2 * surprise.mean(dim=1)
    torch.testing.assert_close(cross_entropy(z, y, label_smoothing=0.2), expected)


@given(logits(count=2), st.floats(0.5, 40))
def test_kl_agrees_with_torch_example_by_example(pair, temperature):
    student, teacher = pair
    found = kl(student, teacher, temperature)
    for i in range(len(student)):
        one = slice(i, i + 1)
        expected = F.kl_div(
            F.log_softmax(student[one] / temperature, dim=1),
            F.softmax(teacher[one] / temperature, dim=1),
            reduction="batchmean",
        )
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)


def test_kl_of_two_classes_in_closed_form():
    # Teacher (3/4, 1/4), student (1/2, 1/2): the order of the arguments matters.
    teacher, student = torch.tensor([[math.log(3), 0.0]]).double(), torch.zeros(1, 2).double()
    torch.testing.assert_close(kl(student, teacher).item(), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    torch.testing.assert_close(kl(teacher, student).item(), 0.5 * math.log(2 / 3) + 0.5 * math.log(2))


@given(logits(count=2), st.floats(0.5, 40))
def test_kl_is_a_divergence_of_distributions(pair, temperature):
    student, teacher = pair
    assert (kl(student, teacher, temperature) >= -1e-12).all()
    assert (kl(teacher, teacher, temperature).abs() <= 1e-12).all()
    torch.testing.assert_close(kl(student + 3, teacher - 5, temperature), kl(student, teacher, temperature))


def test_gradient_of_kl_is_the_difference_of_the_softened_predictions():
    student, teacher = torch.randn(4, 5).double().requires_grad_(), torch.randn(4, 5).double()
    kl(student, teacher, 3.0).sum().backward()
    torch.testing.assert_close(student.grad, (by_hand(student.detach() / 3) - by_hand(teacher / 3)) / 3)


def test_gradients_flow_into_the_teacher_too():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3).requires_grad_()
    kl(student, teacher).sum().backward()
    assert teacher.grad.abs().sum() > 0


def test_a_hot_kl_matches_centred_logits():
    # T^2 KL -> 1/(2K) ||centred(z_S) - centred(z_T)||^2 as T grows (Hinton et al. 2015, section 2.1).
    student, teacher, k = torch.randn(4, 5).double().requires_grad_(), torch.randn(4, 5).double(), 5
    apart = (student - student.mean(dim=1, keepdim=True)) - (teacher - teacher.mean(dim=1, keepdim=True))
    limit = apart.square().sum(dim=1) / (2 * k)
    (expected,) = torch.autograd.grad(limit.sum(), student)
    errors = []
    for temperature in (1e2, 1e3, 1e4):
        value = temperature**2 * kl(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        errors.append((gradient - expected).abs().max().item())
        torch.testing.assert_close(value, limit, rtol=20 / temperature, atol=0)
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3


def test_a_temperature_may_differ_by_example():
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    temperatures = torch.tensor([[1.0], [2.0], [5.0]])
    for quantity in (lambda t: kl(student, teacher, t), lambda t: entropy(student, t)):
        alone = torch.stack([quantity(float(t))[i] for i, t in enumerate(temperatures)])
        torch.testing.assert_close(quantity(temperatures), alone)


@pytest.mark.parametrize(
    "quantity",
    [
        lambda z: cross_entropy(z, LABELS),
        lambda z: kl(z, FAR_APART.flip(1)),
        lambda z: kl(z, FAR_APART),
        lambda z: kl(FAR_APART.flip(1), z),
        lambda z: kl(z, FAR_APART.flip(1), 0.5),
        entropy,
        lambda z: margin(z, LABELS),
        lambda z: dlr(z, LABELS),
        lambda z: difference(z, LABELS, TARGETS),
        lambda z: targeted_dlr(z, LABELS, TARGETS),
    ],
    ids=[
        "cross_entropy",
        "kl",
        "kl-equal",
        "kl-teacher",
        "kl-cold",
        "entropy",
        "margin",
        "dlr",
        "difference",
        "targeted_dlr",
    ],
)
def test_logits_200_apart_give_finite_values_and_gradients(quantity):
    z = FAR_APART.clone().requires_grad_()
    value = quantity(z)
    value.sum().backward()
    assert value.shape == (3,)
    assert value.isfinite().all()
    assert z.grad.isfinite().all()


@given(logits(), st.floats(0.5, 40))
def test_entropy_lies_between_certainty_and_chance(z, temperature):
    value = entropy(z, temperature)
    assert (value >= -1e-12).all()
    assert (value <= math.log(z.shape[1]) + 1e-12).all()
    torch.testing.assert_close(entropy(z + 7, temperature), value)


def test_entropy_at_its_ends_and_of_a_fair_coin():
    assert entropy(torch.tensor([[300.0, 0.0, 0.0]])).item() == 0
    torch.testing.assert_close(entropy(torch.zeros(1, 6)).item(), math.log(6), rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy(torch.tensor([[0.0, 0.0, -300.0]])).item(), math.log(2), rtol=1e-6, atol=0)


@given(logits(), st.data())
def test_margin_is_positive_exactly_where_the_prediction_is_right(z, data):
    y = labels_for(z, data)
    own = z.gather(1, y[:, None])
    tied = ((z == z.amax(dim=1, keepdim=True)).sum(dim=1) > 1) & (own[:, 0] == z.amax(dim=1))
    right = z.argmax(dim=1) == y
    assert torch.equal(margin(z, y) > 0, right & ~tied)
    assert torch.equal(margin(z, y) == 0, tied)


def test_margin_and_dlr_by_hand():
    z, y = torch.tensor([[5.0, 1.0, 3.0, -1.0], [5.0, 1.0, 3.0, -1.0]]), torch.tensor([0, 3])
    assert margin(z, y).tolist() == [2, -6]
    # z_(1) - z_(3) = 4 for both.
    torch.testing.assert_close(dlr(z, y), torch.tensor([-0.5, 1.5]))


@given(logits(least=3), st.data())
def test_dlr_ignores_shift_and_scale(z, data):
    y = labels_for(z, data)
    ordered = z.sort(dim=1, descending=True).values
    assume((ordered[:, 0] > ordered[:, 2]).all())
    torch.testing.assert_close(dlr(z + 5, y), dlr(z, y), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dlr(64 * z, y), dlr(z, y), rtol=1e-9, atol=1e-9)
    assert torch.equal(dlr(z, y).sign(), -margin(z, y).sign())


@given(logits(least=3), st.data())
def test_dlr_is_the_formula_of_croce_and_hein(z, data):
    # Their eq. 6 written from the sorted logits: z_y against the best other class, over z_(1) - z_(3).
    y = labels_for(z, data)
    for i in range(len(z)):
        first, second, third = sorted(z[i].tolist(), reverse=True)[:3]
        assume(first > third)
        own = z[i, y[i]].item()
        other = second if own == first else first
        assert dlr(z, y)[i].item() == pytest.approx(-(own - other) / (first - third), rel=1e-9)


def test_dlr_of_three_classes_stays_between_minus_one_and_one():
    z, y = torch.randn(200, 3).double(), torch.arange(200) % 3
    value = dlr(z, y)
    assert value.abs().max() <= 1
    assert torch.equal(value < 0, z.argmax(dim=1) == y)


def test_dlr_of_two_classes_is_the_margin():
    z, y = torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([0, 0])
    torch.testing.assert_close(dlr(z, y), torch.tensor([-3.0, 0.5]))


def targets_for(z, y, draw):
    return (y + torch.tensor([draw.draw(st.integers(1, z.shape[1] - 1)) for _ in z])) % z.shape[1]


@given(logits(), st.data())
def test_a_difference_is_positive_exactly_where_the_target_beats_the_label(z, data):
    y = labels_for(z, data)
    target = targets_for(z, y, data)
    found = difference(z, y, target)
    assert found.tolist() == [float(z[i, target[i]] - z[i, y[i]]) for i in range(len(z))]
    assert torch.equal(difference(z, target, y), -found)
    assert torch.equal(difference(z + 3, y, target), found)
    assert (found <= -margin(z, y)).all()  # no target is further ahead than the best other class


def test_the_best_of_all_differences_is_the_margin():
    z, y = torch.randn(20, 5), torch.arange(20) % 5
    rivals = torch.stack([difference(z, y, (y + k) % 5) for k in range(1, 5)])
    assert torch.equal(rivals.amax(dim=0), -margin(z, y))


def test_difference_and_targeted_dlr_by_hand():
    z = torch.tensor([[5.0, 1.0, 3.0, -1.0]] * 3)
    y, target = torch.tensor([0, 0, 3]), torch.tensor([2, 3, 0])
    assert difference(z, y, target).tolist() == [-2, -6, 6]
    # z_(1) - (z_(3) + z_(4)) / 2 = 5 - (1 - 1) / 2 = 5 for all three.
    torch.testing.assert_close(targeted_dlr(z, y, target), torch.tensor([-0.4, -1.2, 1.2]))


@given(logits(least=4), st.data())
def test_targeted_dlr_is_the_formula_of_croce_and_hein(z, data):
    # Their eq. 7 written from the sorted logits.
    y = labels_for(z, data)
    target = targets_for(z, y, data)
    for i in range(len(z)):
        first, _, third, fourth = sorted(z[i].tolist(), reverse=True)[:4]
        assume(first > (third + fourth) / 2)
        expected = -(z[i, y[i]].item() - z[i, target[i]].item()) / (first - (third + fourth) / 2)
        assert targeted_dlr(z, y, target)[i].item() == pytest.approx(expected, rel=1e-9)


@given(logits(least=3), st.data())
def test_targeted_dlr_ignores_shift_and_scale(z, data):
    y = labels_for(z, data)
    target = targets_for(z, y, data)
    ordered = z.sort(dim=1, descending=True).values
    assume((ordered[:, 0] > ordered[:, 2]).all())
    found = targeted_dlr(z, y, target)
    torch.testing.assert_close(targeted_dlr(z + 5, y, target), found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(targeted_dlr(64 * z, y, target), found, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.sign(), difference(z, y, target).sign())


def test_targeted_dlr_of_three_classes_takes_the_third_logit_for_the_mean():
    z = torch.tensor([[4.0, 1.0, 3.0], [4.0, 1.0, 3.0], [1.0, 4.0, 3.0]])
    y, target = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 1])
    torch.testing.assert_close(targeted_dlr(z, y, target), torch.tensor([-1.0, -1 / 3, 1 / 3]))


def test_targeted_dlr_of_two_classes_is_the_difference():
    z, y = torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([0, 0])
    torch.testing.assert_close(targeted_dlr(z, y, 1 - y), torch.tensor([-3.0, 0.5]))
    assert torch.equal(targeted_dlr(z, y, 1 - y), dlr(z, y))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("quantity", [targeted_dlr, lambda z, y, _: dlr(z, y), difference])
def test_equal_logits_give_finite_gradients(quantity, classes):
    # A network that says the same for every class: the ratio is 0 / 0 but for the small constant.
    z = torch.full((classes, classes), 0.25).requires_grad_()
    y = torch.arange(classes)
    value = quantity(z, y, (y + 1) % classes)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(classes))
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_the_gradient_of_targeted_dlr_is_that_of_differences_of_its_values(classes):
    z = 3 * torch.randn(6, classes).double()
    y = torch.arange(6) % classes
    target, point = (y + 1) % classes, z.clone().requires_grad_()
    targeted_dlr(point, y, target).sum().backward()
    for j in range(classes):
        step = 1e-6 * (torch.arange(classes) == j)
        slope = (targeted_dlr(z + step, y, target) - targeted_dlr(z - step, y, target)) / 2e-6
        torch.testing.assert_close(point.grad[:, j], slope, rtol=1e-5, atol=1e-7)


def test_cosine_in_closed_form():
    u = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    v = torch.tensor([[6.0, 8.0], [-2.0, 0.0], [0.0, 5.0], [1.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(cosine(u, v), torch.tensor([1.0, -1.0, 0.0, math.sqrt(0.5), 0.0]))
