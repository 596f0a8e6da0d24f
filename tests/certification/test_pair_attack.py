import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, Threat, ball
from overproof.certification.pair_attack import attack_pair
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.signature import Signature

QUICK = {"steps": 10, "restarts": 2}
VALUES = ("under", "over", "gap")
POINTS = ("x_under", "x_over", "x_disagree")


def threat(norm="linf", eps="0.1"):
    return Threat(norm=norm, eps=Radius(eps))


def confidence(network, x, y):
    return network.eval()(x).softmax(dim=1).gather(1, y[:, None]).squeeze(1)


def linear(weight, bias):
    """Return a network on images [N, 1, H, W] with logits ``weight @ x + bias``, weight [K, H * W]."""
    layer = nn.Linear(weight.shape[1], len(weight))
    layer.weight.data, layer.bias.data = weight, bias
    side = math.isqrt(weight.shape[1])
    signature = Signature(channels=1, height=side, width=side, classes=len(weight))
    return Classifier(nn.Sequential(nn.Flatten(), layer), signature).to(weight.dtype).eval()


def along(direction, slope, offset):
    """Return a two-class network whose class 0 leads by ``slope * (direction . x) + offset``."""
    return linear(torch.stack([slope * direction, 0 * direction]), torch.tensor([offset, 0.0], dtype=direction.dtype))


# --- known answers ----------------------------------------------------------------------------------------------------


def grid_of(pairs, direction, x, eps, norm, worst_case):
    """Return the leads of teacher and student, [points, N], over all that ``direction . x`` can be in the ball."""
    slope = direction.expand(len(x), -1).reshape(x.shape)
    t = x.flatten(1) @ direction
    high, low = t + worst_case(norm, slope, x, eps), t - worst_case(norm, -slope, x, eps)
    steps = torch.linspace(0, 1, 4001, dtype=x.dtype)[:, None]
    t = low + steps * (high - low)
    return tuple(slope * t + offset for slope, offset in pairs)


INSIDE = ((2.0, 2.0), (1.0, 2.0))
"""A teacher and a student whose confidences differ most where neither is surest."""


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "pairs",
    [
        # (slope, offset) of the teacher and of the student; the leads meet the ball in quite different places.
        ((1.0, 3.0), (1.5, 0.5)),
        ((0.3, 1.0), (-0.6, 0.2)),
        INSIDE,
        ((-1.0, 4.0), (4.0, 6.0)),
    ],
)
def test_finds_the_extremes_of_two_linear_networks(norm, pairs, worst_case):
    direction = torch.randn(16).double()
    x = 0.3 + 0.4 * torch.rand(8, 1, 4, 4).double()
    x -= (x.flatten(1) @ direction)[:, None, None, None] * (direction / direction.square().sum()).view(1, 4, 4)
    assert ((x > -0.5) & (x < 1.5)).all()
    x = x.clamp(0, 1)
    eps = {"linf": "0.1", "l2": "0.4"}[norm]
    teacher, student = (along(direction, *one) for one in pairs)
    y = torch.zeros(8, dtype=torch.int64)
    lead, other = grid_of(pairs, direction, x, float(eps), norm, worst_case)
    found = attack_pair(teacher, student, Batch(x, y), threat(norm, eps), steps=30, restarts=2)
    assert found.correct.all()
    difference = lead.sigmoid() - other.sigmoid()
    # Steps of a sixth of the radius leave an extreme inside the ball a little short; so does the projection in l2.
    short = 1e-6 if norm == "linf" and pairs != INSIDE else 2e-3
    for value, expected in ((found.under, difference.amax(dim=0)), (found.over, (-difference).amax(dim=0))):
        assert (value <= expected + 1e-6).all()
        assert (value >= expected - short).all()
    # Leads of both signs, by a margin that no rounding reaches.
    apart = torch.minimum(torch.maximum(lead, other), -torch.minimum(lead, other)).amax(dim=0)
    clear = apart.abs() > 0.01
    assert torch.equal(found.agrees[clear], (apart < 0)[clear])


def tiny_pair(seed):
    """Return two random ReLU networks on 1x1x2 images with three classes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        for parameter in layers.parameters():
            parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator)
        found.append(Classifier(layers, Signature(channels=1, height=1, width=2, classes=3)).double().eval())
    return found


def disc(x, norm, eps, side=161):
    """Return a grid [side * side, N, 1, 1, 2] over the ball and [0, 1]; points outside are moved onto the image."""
    ticks = torch.linspace(-1, 1, side, dtype=x.dtype)
    steps = eps * torch.cartesian_prod(ticks, ticks)[:, None, None, None, :]
    grid = x + steps
    inside = ((grid >= 0) & (grid <= 1)).all(dim=-1, keepdim=True)
    if norm == "l2":
        inside &= torch.linalg.vector_norm(steps, dim=-1, keepdim=True) <= eps
    return torch.where(inside, grid, x)


@pytest.mark.parametrize(("norm", "seed"), [("linf", 0), ("l2", 1)])
def test_finds_what_an_exhaustive_search_finds(norm, seed):
    teacher, student = tiny_pair(seed)
    x = torch.rand(12, 1, 1, 2).double()
    y = teacher(x).argmax(dim=1)
    grid = disc(x, norm, 0.15)
    shape = grid.shape[:2]
    with torch.no_grad():
        ours, theirs = (network(grid.flatten(0, 1)).view(*shape, 3) for network in (teacher, student))
    lead = (ours.softmax(-1) - theirs.softmax(-1)).gather(2, y.expand(shape)[..., None]).squeeze(2)
    found = attack_pair(teacher, student, Batch(x, y), threat(norm, "0.15"), steps=30, restarts=3)
    # A step of the grid is 0.002 wide, so it may miss a little itself.
    torch.testing.assert_close(found.under, lead.amax(dim=0), atol=5e-3, rtol=0)
    torch.testing.assert_close(found.over, (-lead).amax(dim=0), atol=5e-3, rtol=0)
    differ = (ours.argmax(-1) != theirs.argmax(-1)).any(dim=0)
    assert differ.any() and not differ.all()
    assert not (found.agrees & differ).any()
    assert int((~found.agrees & ~differ).sum()) <= 1  # a wedge between two points of the grid


def test_a_pair_that_is_one_network_has_no_gap(tiny_classifier, tiny_batch):
    teacher, student = tiny_classifier(3), tiny_classifier(3)
    y = teacher.eval()(tiny_batch.x).argmax(dim=1)
    for other in (teacher, student):
        found = attack_pair(teacher, other, Batch(tiny_batch.x, y), threat(), **QUICK)
        assert found.correct.all() and found.student_correct.all() and found.agrees.all()
        assert (found.gap == 0).all() and (found.under == 0).all() and (found.over == 0).all()
        assert torch.equal(found.x_disagree, tiny_batch.x)


def test_finds_a_disagreement_about_two_wrong_classes():
    # Class 0 leads until the mean pixel passes a half; then one network says 1 and the other 2. Their confidences in 0
    # are equal everywhere.
    ones = torch.ones(4)
    teacher = linear(torch.stack([0 * ones, ones, -ones]), torch.tensor([2.0, 0.0, 0.0]))
    student = linear(torch.stack([0 * ones, -ones, ones]), torch.tensor([2.0, 0.0, 0.0]))
    x = torch.stack([torch.full((1, 2, 2), value) for value in (0.3, 0.42, 0.48)])
    found = attack_pair(teacher, student, Batch(x, torch.zeros(3, dtype=torch.int64)), threat(), **QUICK)
    assert found.agrees.tolist() == [True, False, False]
    assert (found.gap.abs() <= 1e-6).all()
    point = found.x_disagree[1:]
    assert teacher(point).argmax(dim=1).tolist() == [1, 1] and student(point).argmax(dim=1).tolist() == [2, 2]


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_finds_the_way_where_confidences_are_saturated(scale):
    # Both networks are so sure of the image that float32 knows no confidence but 1 and no gradient of it. The student
    # changes its mind beyond an eighth of the ball's radius, along a direction that the teacher hardly heeds.
    direction = torch.ones(16)
    teacher, student = along(0.01 * direction, scale, 4 * scale), along(direction, 10 * scale, -79 * scale)
    x = torch.full((2, 1, 4, 4), 0.5)
    assert (student(x)[:, 0] - student(x)[:, 1]).tolist() == [scale] * 2
    found = attack_pair(teacher, student, Batch(x, torch.zeros(2, dtype=torch.int64)), threat(), **QUICK)
    assert (found.under > 0.98).all()
    assert not found.agrees.any()


def test_saturated_both_ways_the_smaller_margin_still_leads_to_the_gap():
    # The teacher falls a little slower than the student, whose log-odds would gain more where both are lost.
    direction = torch.ones(16)
    teacher, student = along(direction, 50.0, -370.0), along(direction, 100.0, -770.0)
    x = torch.full((1, 1, 4, 4), 0.5)
    # At t = sum x = 8: leads 30 and 30. Between t = 7.4 and 7.7 the teacher leads and the student does not.
    found = attack_pair(teacher, student, Batch(x, torch.zeros(1, dtype=torch.int64)), threat(), steps=30, restarts=2)
    assert float(found.under) > 0.98
    assert 7.4 < float(found.x_disagree.sum()) < 7.7


# --- what is stated is attained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.1"), ("l2", "0.8"), ("l1", "3")])
def test_points_lie_in_the_ball_and_attain_the_values(norm, eps, tiny_classifier, tiny_batch):
    teacher, student = tiny_classifier(0), tiny_classifier(5)
    x = tiny_batch.x
    y = teacher.eval()(x).argmax(dim=1)
    found = attack_pair(teacher, student, Batch(x, y), threat(norm, eps), **QUICK)
    for name in POINTS:
        point = getattr(found, name)
        assert point.shape == x.shape and not point.requires_grad
        assert (point >= 0).all() and (point <= 1).all()
        assert (ball(norm, 1.0).size(point - x) <= float(eps) * (1 + 1e-5)).all()
    with torch.no_grad():
        for name, sign in (("under", 1), ("over", -1)):
            point = getattr(found, f"x_{name}")
            lead = sign * (confidence(teacher, point, y) - confidence(student, point, y))
            torch.testing.assert_close(getattr(found, name), lead, atol=2e-6, rtol=0)
            clean = sign * (confidence(teacher, x, y) - confidence(student, x, y))
            assert (getattr(found, name) >= clean - 2e-6).all()
        differ = teacher(found.x_disagree).argmax(dim=1) != student(found.x_disagree).argmax(dim=1)
    assert torch.equal(found.agrees, ~differ)
    assert not found.agrees.all()
    assert torch.equal(found.gap, torch.maximum(found.under, found.over)) and (found.gap >= 0).all()
    assert (found.gap > 1.05 * clean.abs()).any()


def test_more_restarts_never_find_less(tiny_classifier, tiny_batch):
    teacher, student = tiny_classifier(0), tiny_classifier(2)
    block = Batch(tiny_batch.x, teacher.eval()(tiny_batch.x).argmax(dim=1))
    found = [attack_pair(teacher, student, block, threat(), steps=3, restarts=count) for count in (1, 2, 4)]
    for few, more in pairwise(found):
        for name in VALUES:
            assert (getattr(more, name) >= getattr(few, name) - 1e-6).all()
        assert not (more.agrees & ~few.agrees).any()
    assert (found[-1].gap > found[0].gap + 1e-4).any()


def test_roles_mirror_each_other(tiny_classifier, tiny_batch):
    one, two = tiny_classifier(3).eval(), tiny_classifier(9).eval()
    both = one(tiny_batch.x).argmax(dim=1) == two(tiny_batch.x).argmax(dim=1)
    x = tiny_batch.x[both]
    block = Batch(x, one(x).argmax(dim=1))
    there, back = (attack_pair(*pair, block, threat(), **QUICK) for pair in ((one, two), (two, one)))
    assert len(x) > 1
    torch.testing.assert_close(there.under, back.over)
    torch.testing.assert_close(there.over, back.under)
    assert torch.equal(there.agrees, back.agrees)


# --- who counts -------------------------------------------------------------------------------------------------------


def test_examples_that_the_teacher_gets_wrong_do_not_count(tiny_classifier, tiny_batch):
    teacher, student = tiny_classifier(0), tiny_classifier(2)
    x = tiny_batch.x
    predicted, other = (network.eval()(x).argmax(dim=1) for network in (teacher, student))
    y = predicted.clone()
    y[::2] = (y[::2] + 1) % 4
    found = attack_pair(teacher, student, Batch(x, y), threat(), **QUICK)
    assert found.correct.tolist() == [False, True] * 3
    assert torch.equal(found.student_correct, other == y)
    for name in VALUES:
        assert torch.equal(getattr(found, name).isnan(), ~found.correct)
    assert not found.agrees[::2].any()
    for name in POINTS:
        assert torch.equal(getattr(found, name)[::2], x[::2])
    # The others are attacked as if they were alone.
    alone = attack_pair(teacher, student, Batch(x[1::2], y[1::2]), threat(), **QUICK)
    torch.testing.assert_close(found.gap[1::2], alone.gap)
    assert torch.equal(found.agrees[1::2], alone.agrees)


def test_a_student_that_is_wrong_about_the_image_disagrees_there():
    ones = torch.ones(4)
    teacher, student = along(0 * ones, 1.0, 2.0), along(0 * ones, 1.0, -1.0)
    x = torch.rand(3, 1, 2, 2)
    found = attack_pair(teacher, student, Batch(x, torch.zeros(3, dtype=torch.int64)), threat(), **QUICK)
    assert found.correct.all() and not found.student_correct.any() and not found.agrees.any()
    assert torch.equal(found.x_disagree, x)
    expected = 1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(1))
    assert found.under.tolist() == pytest.approx([expected] * 3)
    assert found.over.tolist() == pytest.approx([-expected] * 3)


def test_a_teacher_that_is_right_about_nothing(tiny_classifier, tiny_batch):
    teacher = tiny_classifier(0)
    y = (teacher.eval()(tiny_batch.x).argmax(dim=1) + 1) % 4
    found = attack_pair(teacher, tiny_classifier(1), Batch(tiny_batch.x, y), threat(), **QUICK)
    assert not found.correct.any() and found.gap.isnan().all()


# --- manners ----------------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_number_alone(tiny_classifier, tiny_batch):
    teacher, student = tiny_classifier(0), tiny_classifier(2)
    block = Batch(tiny_batch.x, teacher.eval()(tiny_batch.x).argmax(dim=1))
    first = attack_pair(teacher, student, block, threat(), steps=3, restarts=2)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    again = attack_pair(teacher, student, block, threat(), steps=3, restarts=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("under", "over", "agrees", *POINTS):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for change in ({"seed": 1}, {"number": 1}):
        other = attack_pair(teacher, student, block, threat(), steps=3, restarts=2, **change)
        assert not torch.equal(first.x_under, other.x_under)


def test_networks_are_given_back_as_they_were(tiny_classifier, tiny_batch, modes):
    teacher, student = tiny_classifier(0).eval(), tiny_classifier(2)
    student.backbone[1].eval()
    y = teacher(tiny_batch.x).argmax(dim=1)
    before = [modes(network) for network in (teacher, student)]
    buffers = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        found = attack_pair(teacher, student, Batch(tiny_batch.x, y), threat(), **QUICK)
    assert [modes(network) for network in (teacher, student)] == before
    assert all(parameter.grad is None for network in (teacher, student) for parameter in network.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in student.state_dict().items())
    # The student was examined in eval mode although it came in train mode.
    point = found.x_under
    lead = confidence(teacher, point, y) - confidence(student, point, y)
    torch.testing.assert_close(found.under, lead.detach(), atol=2e-6, rtol=0)


def other_task(**change):
    signature = replace(Signature(channels=3, height=8, width=8, classes=4), **change)
    size = signature.channels * signature.height * signature.width
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(size, signature.classes)), signature)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"classes": 7}, "3x8x8, 7 classes"), ({"height": 9}, "3x9x8, 4 classes"), ({"channels": 1}, "1x8x8, 4 classes")],
)
def test_a_teacher_for_another_task_is_refused(change, named, tiny_classifier, tiny_batch):
    with pytest.raises(InputError, match=f"teacher is for {named}, but the student for 3x8x8, 4 classes"):
        attack_pair(other_task(**change), tiny_classifier(), tiny_batch, threat())


def test_images_and_labels_for_another_task_are_refused(tiny_classifier, tiny_batch):
    pair, (x, y) = (tiny_classifier(0), tiny_classifier(1)), tiny_batch
    for images in (x[..., :7], x[:0], x[0]):
        with pytest.raises(InputError, match="are for 3x8x8, 4 classes, but the images are"):
            attack_pair(*pair, Batch(images, y[: len(images)]), threat())
    for labels in (y[:5], y + 1, y - 1, y[:, None]):
        with pytest.raises(InputError, match="6 images need as many labels from 0 to 3"):
            attack_pair(*pair, Batch(x, labels), threat())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_outputs_that_are_not_finite_are_refused(role, tiny_classifier, tiny_batch, modes):
    pair = {"teacher": tiny_classifier(0), "student": tiny_classifier(1)}
    nn.init.constant_(pair[role].head.bias[:1], math.nan)
    with pytest.raises(InputError, match=rf"the {role}'s outputs are not finite .* on 6 of 6"):
        attack_pair(*pair.values(), tiny_batch, threat())
    assert all(modes(pair[role]).values())


@pytest.mark.parametrize("effort", [{"steps": 0}, {"restarts": 0}, {"steps": -1}])
def test_a_search_without_effort_is_refused(effort, tiny_classifier, tiny_batch):
    with pytest.raises(InputError, match="at least one step and one ascent"):
        attack_pair(tiny_classifier(0), tiny_classifier(1), tiny_batch, threat(), **effort)
