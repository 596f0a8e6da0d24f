import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from overproof.bounds import softmax as module
from overproof.bounds.region import Bounds
from overproof.bounds.softmax import (
    confidence,
    difference_box,
    logsumexp,
    lower_cut,
    secant,
    separate,
    sigmoid_polygon,
    tangent,
    upper_cut,
)

ROUNDING = 1e-14  # doubles of about 1 that went through a few logarithms
seeds = st.integers(0, 10**6)
classes = st.integers(2, 7)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def uniform(shape, low, high, g):
    return low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)


def box(count, width, g, *, size=4.0):
    """Return boxes [count, width]: sides from 0 to 6 long, some of them exactly 0."""
    centre = uniform((count, width), -size, size, g)
    radius = uniform((count, width), -0.5, 3, g).clamp(min=0)
    return Bounds(centre - radius, centre + radius)


def points(box, count, g):
    """Return ``count`` points in each box, [count, N, ...], a third of whose coordinates are at an end."""
    share = uniform((count, *box.lower.shape), -0.25, 1.25, g).clamp(0, 1)
    return box.lower + share * (box.upper - box.lower)


def f(m):
    """The confidence, from the softmax itself."""
    return torch.nn.functional.pad(m, (1, 0)).softmax(dim=-1)[..., 0]


def pair(count, width, g):
    """Return boxes of the margins and of their difference that hold at least one pair of points, and these points."""
    teacher, student = box(count, width, g), box(count, width, g)
    m_t, m_s = points(teacher, 1, g)[0], points(student, 1, g)[0]
    slack = Bounds(*uniform((2, count, width), -0.5, 2, g).clamp(min=0))
    return teacher, student, Bounds(m_t - m_s - slack.lower, m_t - m_s + slack.upper), m_t, m_s


def shrink(box, g, towards):
    """Return a box inside the box, around ``towards``."""
    share = uniform((2, *box.lower.shape), 0, 1, g)
    return Bounds(*(side + part * (towards - side) for side, part in zip(box, share, strict=True)))


def assert_contains(outer, values, slack=ROUNDING):
    assert (values >= outer.lower - slack).all() and (values <= outer.upper + slack).all()


def assert_inside(inner, outer, slack=ROUNDING):
    assert (inner.lower >= outer.lower - slack).all() and (inner.upper <= outer.upper + slack).all()


# --- One network, and two of them apart -------------------------------------------------------------------------------


@given(seeds, classes)
@settings(max_examples=30)
def test_confidence_holds_every_point_and_is_attained_at_the_corners(seed, k):
    g = generator(seed)
    margins = box(20, k - 1, g)
    bounds = confidence(margins)
    assert_contains(bounds, f(points(margins, 200, g)))
    torch.testing.assert_close(bounds, Bounds(f(margins.upper), f(margins.lower)), rtol=0, atol=ROUNDING)
    assert_contains(logsumexp(margins), points(margins, 200, g).logsumexp(dim=-1))


def test_every_class_has_its_probability_from_the_margins_relative_to_it():
    logits = torch.randn(5, 4, dtype=torch.float64)
    for k in range(4):
        others = [j for j in range(4) if j != k]
        m = logits[:, others] - logits[:, [k]]
        found = confidence(Bounds(m, m))
        torch.testing.assert_close(found.lower, logits.softmax(1)[:, k])
        torch.testing.assert_close(found.upper, logits.softmax(1)[:, k])


@given(seeds, classes)
def test_separate_is_the_difference_of_the_ranges(seed, k):
    g = generator(seed)
    teacher, student = box(20, k - 1, g), box(20, k - 1, g)
    bounds = separate(teacher, student)
    assert_contains(bounds, f(points(teacher, 100, g)) - f(points(student, 100, g)))
    torch.testing.assert_close(bounds.upper, f(teacher.lower) - f(student.upper), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(bounds.lower, f(teacher.upper) - f(student.lower), rtol=0, atol=ROUNDING)


# --- Two networks whose margins' difference is bounded ----------------------------------------------------------------


@given(seeds, classes)
def test_the_difference_box_holds_every_point(seed, k):
    g = generator(seed)
    teacher, student, difference, m_t, m_s = pair(20, k - 1, g)
    bounds = difference_box(teacher, student, difference)
    assert_contains(bounds, f(m_t) - f(m_s))
    # Feasible points: any of the student's, moved towards the pair that is known until the teacher's may follow.
    for share in (1.0, 0.5, 0.1):
        s = m_s + share * (points(student, 300, g) - m_s)
        low = torch.maximum(teacher.lower, s + difference.lower)
        high = torch.minimum(teacher.upper, s + difference.upper)
        t = points(Bounds(low, high), 1, g)[0]
        feasible = (low <= high).all(dim=-1)
        assert feasible.any()
        gap = torch.where(feasible, f(t) - f(s), f(m_t) - f(m_s))
        assert_contains(bounds, gap)


@given(seeds, st.sampled_from([2, 3]))
@settings(max_examples=30)
def test_on_two_and_three_classes_it_is_the_range_over_a_grid_of_all_points(seed, k):
    """Both margins of both networks on a grid: no point outside, and the ends as near as the grid is fine."""
    g = generator(seed)
    teacher, student, difference, *_ = pair(1, k - 1, g)
    steps = 201 if k == 2 else 19
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    lines = [side.lower[0, j] + share * 2 * side.radius[0, j] for side in (teacher, student) for j in range(k - 1)]
    m = torch.cartesian_prod(*lines)
    m_t, m_s = m[:, : k - 1], m[:, k - 1 :]
    step = max(float(line[1] - line[0]) for line in lines)
    gap = f(m_t) - f(m_s)

    def feasible(give):
        apart = m_t - m_s
        return ((apart >= difference.lower - give) & (apart <= difference.upper + give)).all(dim=1)

    bounds = difference_box(teacher, student, difference)
    exactly, nearly = gap[feasible(0)], gap[feasible(step)]
    assert_contains(bounds, exactly)
    # The best point has a neighbour within half a step, its difference within a step; f moves by 1/4 a unit.
    assert nearly.max() >= bounds.upper - step / 4 - ROUNDING
    assert nearly.min() <= bounds.lower + step / 4 + ROUNDING


@given(seeds, st.integers(2, 4))
@settings(max_examples=30)
def test_the_maximum_is_attained(seed, k):
    """A slow twin: the student on a fine grid, the teacher as confident as it may be, both checked to be allowed."""
    g = generator(seed)
    teacher, student, difference, *_ = pair(1, k - 1, g)
    floor = torch.maximum(student.lower, teacher.lower - difference.upper)[0]
    ceiling = torch.minimum(student.upper, teacher.upper - difference.lower)[0]
    share = torch.linspace(0, 1, {2: 20_001, 3: 201, 4: 31}[k], dtype=torch.float64)
    kink = (teacher.lower - difference.lower)[0].clamp(floor, ceiling)  # from here on the teacher has to follow
    lines = torch.cat([floor[:, None] + share * (ceiling - floor)[:, None], kink[:, None]], dim=1)
    m_s = torch.cartesian_prod(*lines).view(-1, k - 1)
    m_t = torch.maximum(teacher.lower, m_s + difference.lower)
    tiny = 1e-12
    assert (m_t <= teacher.upper + tiny).all() and (m_t - m_s <= difference.upper + tiny).all()
    gap = (f(m_t) - f(m_s)).max()
    bound = difference_box(teacher, student, difference).upper
    assert gap <= bound + tiny
    # All margins but one are at ends, which are on the grid; along that one the top is flat: a step counts squared.
    assert gap >= bound - float((ceiling - floor).max() * share[1]) ** 2 - tiny


@given(seeds, classes)
def test_joint_is_never_looser_than_separate_and_a_smaller_box_is_tighter(seed, k):
    g = generator(seed)
    teacher, student, difference, m_t, m_s = pair(20, k - 1, g)
    bounds = difference_box(teacher, student, difference)
    assert_inside(bounds, separate(teacher, student))
    smaller = [shrink(box, g, at) for box, at in ((teacher, m_t), (student, m_s), (difference, m_t - m_s))]
    assert_inside(difference_box(*smaller), bounds)
    assert_inside(separate(*smaller[:2]), separate(teacher, student))
    assert_inside(confidence(smaller[0]), confidence(teacher))


@given(seeds, classes)
def test_without_a_difference_it_is_separate_and_of_a_point_it_is_the_point(seed, k):
    g = generator(seed)
    teacher, student, difference, m_t, m_s = pair(20, k - 1, g)
    anything = Bounds(torch.full_like(m_t, -torch.inf), torch.full_like(m_t, torch.inf))
    apart = difference_box(teacher, student, anything)
    torch.testing.assert_close(apart, separate(teacher, student), rtol=0, atol=ROUNDING)
    point = f(m_t) - f(m_s)
    for found in (
        difference_box(Bounds(m_t, m_t), Bounds(m_s, m_s), difference),
        difference_box(Bounds(m_t, m_t), Bounds(m_s, m_s), Bounds(m_t - m_s, m_t - m_s)),
        separate(Bounds(m_t, m_t), Bounds(m_s, m_s)),
    ):
        torch.testing.assert_close(found, Bounds(point, point), rtol=0, atol=ROUNDING)


def test_networks_that_are_the_same_do_not_differ():
    margins = box(50, 5, generator(0))
    zero = torch.zeros_like(margins.lower)
    found = difference_box(margins, margins, Bounds(zero, zero))
    torch.testing.assert_close(found, Bounds(zero[:, 0], zero[:, 0]), rtol=0, atol=ROUNDING)


def test_the_difference_pays_for_a_top_inside_by_the_closed_form():
    """Two classes, d = -2: sigmoid(2 - m) - sigmoid(-m) is greatest at m = 1, halfway, with tanh(1/2)."""
    one = torch.ones(1, 1, dtype=torch.float64)
    found = difference_box(Bounds(-9 * one, 9 * one), Bounds(-9 * one, 9 * one), Bounds(-2 * one, 9 * one))
    assert found.upper.item() == pytest.approx(np.tanh(0.5), abs=ROUNDING)


def test_the_reference_column_diffbox_is_reproduced():
    file = Path(__file__).parents[3] / "shared/reference/bounds/pairs/cnn_pgd__student_kd.safetensors"
    if not file.is_file():
        pytest.skip("the reference bounds are not here")
    stored = load_file(file)
    for eps in ("0.01", "0.02", "0.05", "0.1"):

        def bounds(name, eps=eps):
            return Bounds(stored[f"eps{eps}.{name}.lower"], stored[f"eps{eps}.{name}.upper"])

        teacher, student = bounds("crown.teacher.margins"), bounds("crown.student.margins")
        joint = difference_box(teacher, student, bounds("crown.margin_diff"))
        torch.testing.assert_close(joint, bounds("diffbox.diff"), rtol=0, atol=1e-12)
        torch.testing.assert_close(separate(teacher, student), bounds("separate_crown.diff"), rtol=0, atol=1e-12)
        torch.testing.assert_close(confidence(teacher), bounds("crown.teacher.prob"), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    g = generator(3)
    m_t, m_s = uniform((2, 20, 3), -2, 2, g)
    boxes = [
        Bounds(m - uniform(m.shape, 0.1, r, g), m + uniform(m.shape, 0.1, r, g))
        for m, r in zip((m_t, m_s, m_t - m_s), (3, 3, 1), strict=True)
    ]
    sides = [side.requires_grad_() for box in boxes for side in box]
    assert torch.autograd.gradcheck(lambda low, high: confidence(Bounds(low, high)), sides[:2])
    assert torch.autograd.gradcheck(lambda *s: separate(Bounds(*s[:2]), Bounds(*s[2:])), sides[:4])
    assert torch.autograd.gradcheck(lambda *s: difference_box(Bounds(*s[:2]), Bounds(*s[2:4]), Bounds(*s[4:])), sides)


# --- Linear cuts ------------------------------------------------------------------------------------------------------


@given(seeds, classes)
def test_the_lower_cut_is_below_everywhere_and_touches_where_p_is_the_softmax(seed, k):
    g = generator(seed)
    margins = box(20, k - 1, g)
    p = points(Bounds(torch.zeros(20, k - 1), torch.ones(20, k - 1)), 1, g)[0].double() + 1e-3
    p = p / p.sum(dim=1, keepdim=True)
    m = points(margins, 200, g) * 3
    for slopes in (p, tangent(margins), torch.eye(k - 1, dtype=torch.float64)[:1].expand(20, -1)):
        assert (m.logsumexp(dim=-1) >= (slopes * m).sum(dim=-1) + lower_cut(slopes) - ROUNDING).all()
    centre, slopes = margins.centre, tangent(margins)
    touched = (slopes * centre).sum(dim=1) + lower_cut(slopes)
    torch.testing.assert_close(touched, centre.logsumexp(dim=1), rtol=0, atol=ROUNDING)


def vertices(box):
    choices = torch.tensor(list(itertools.product((0, 1), repeat=box.lower.shape[1])), dtype=torch.bool)
    return torch.where(choices[:, None], box.upper, box.lower)


@given(seeds, classes)
def test_the_upper_cut_is_above_everywhere_and_touches_at_a_vertex(seed, k):
    g = generator(seed)
    margins = box(20, k - 1, g)
    for q in (secant(margins), tangent(margins), uniform((20, k - 1), -1, 2, g)):
        constant = upper_cut(margins, q)
        inside = points(margins, 200, g)
        assert (inside.logsumexp(dim=-1) <= (q * inside).sum(dim=-1) + constant + ROUNDING).all()
        corners = vertices(margins)
        least = (corners.logsumexp(dim=-1) - (q * corners).sum(dim=-1)).amax(dim=0)
        torch.testing.assert_close(constant, least, rtol=0, atol=ROUNDING)


@given(seeds, classes)
def test_many_margins_are_bounded_through_the_secant_which_is_exact_for_it(seed, k):
    g = generator(seed)
    margins = box(20, k - 1, g)
    chosen, other = secant(margins), uniform((20, k - 1), -1, 2, g)
    exact, exact_other = upper_cut(margins, chosen), upper_cut(margins, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ENUMERATED", 0)
        torch.testing.assert_close(upper_cut(margins, chosen), exact, rtol=0, atol=1e-13)
        assert (upper_cut(margins, other) >= exact_other - 1e-13).all()


def test_up_to_ten_margins_every_vertex_is_visited():
    g = generator(3)
    margins = box(3, 10, g)
    for q in (tangent(margins), uniform((3, 10), -1, 2, g)):
        corners = vertices(margins)
        least = (corners.logsumexp(dim=-1) - (q * corners).sum(dim=-1)).amax(dim=0)
        torch.testing.assert_close(upper_cut(margins, q), least, rtol=0, atol=1e-12)


def test_the_upper_cut_of_a_hundred_classes_holds_every_point():
    g = generator(0)
    margins = box(20, 99, g)
    for q in (secant(margins), tangent(margins)):
        inside = points(margins, 500, g)
        assert (inside.logsumexp(dim=-1) <= (q * inside).sum(dim=-1) + upper_cut(margins, q) + 1e-13).all()


@given(seeds, classes)
def test_the_secant_touches_the_upper_corner_and_those_next_to_it(seed, k):
    g = generator(seed)
    margins = box(20, k - 1, g)
    q = secant(margins)
    assert ((q >= 0) & (q <= 1)).all()
    constant = upper_cut(margins, q)
    for j in (None, *range(k - 1)):
        corner = margins.upper.clone()
        if j is not None:
            corner[:, j] = margins.lower[:, j]
        touched = (q * corner).sum(dim=1) + constant
        torch.testing.assert_close(touched, corner.logsumexp(dim=1), rtol=0, atol=1e-13)
    if k == 2:
        torch.testing.assert_close(q, torch.ones_like(q))
        assert constant.abs().max() < ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_carry_the_secant_out_of_0_and_1(dtype):
    # Over a box a few units of rounding wide the fall over the width is little but rounding.
    g = generator(0)
    lower = uniform((500, 4), -3, 3, g).to(dtype)
    upper = lower + uniform((500, 4), 0, 4, g).to(dtype) * torch.finfo(dtype).eps
    q = secant(Bounds(lower, upper))
    assert ((q >= 0) & (q <= 1)).all()


# --- The polygon of two logsumexps ------------------------------------------------------------------------------------


def clipped(polygon, a, b, c):
    """Return the polygon (a list of corners in order) cut by a x - b y >= c: Sutherland and Hodgman 1974."""
    kept = []
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        v0, v1 = a * x0 - b * y0 - c, a * x1 - b * y1 - c
        if v0 >= 0:
            kept.append((x0, y0))
        if (v0 < 0) != (v1 < 0):
            share = v0 / (v0 - v1)
            kept.append((x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    return kept


def walked(teacher, student, a, b, c, steps=4001):
    """A slow twin: the polygon by clipping its box, and the range along its border in small steps."""
    (x0, x1), (y0, y1) = ([float(side) for side in box] for box in (teacher, student))
    polygon = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    for plane in zip(a, b, c, strict=True):
        polygon = clipped(polygon, *(float(number) for number in plane))
    if not polygon:
        return None
    at = np.asarray(polygon)[:, None]
    border = at + np.linspace(0, 1, steps)[:, None] * (np.roll(at, -1, axis=0) - at)
    gap = torch.sigmoid(-torch.tensor(border[..., 0])) - torch.sigmoid(-torch.tensor(border[..., 1]))
    return gap.min(), gap.max()


def half_planes(count, planes, g, *, size):
    """Return half planes through or near the boxes: of links between two like quantities, and of any direction."""
    like = 1 + uniform((count, planes), -0.6, 0.6, g)
    a = torch.where(uniform((count, planes), 0, 1, g) < 0.6, like, uniform((count, planes), -2, 2, g))
    b = torch.where(uniform((count, planes), 0, 1, g) < 0.6, 1.0, uniform((count, planes), -2, 2, g))
    sign = uniform((count, planes), -1, 1, g).sign()
    through = uniform((2, count, planes), -size, size, g)
    return sign * a, sign * b, sign * (a * through[0] - b * through[1]) - uniform((count, planes), 0, size, g)


@pytest.mark.parametrize("size", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("planes", [1, 2, 4])
def test_the_polygon_s_range_is_that_of_a_walk_along_its_border(size, planes):
    g = generator(planes)
    teacher, student = (Bounds(*uniform((2, 60), -size, size, g).sort(dim=0).values) for _ in range(2))
    a, b, c = half_planes(60, planes, g, size=size)
    found = sigmoid_polygon(teacher, student, a, b, c)
    whole = Bounds(*(torch.sigmoid(-x) - torch.sigmoid(-y) for x, y in zip(teacher[::-1], student, strict=True)))
    assert_inside(found, whole)
    seen = 0
    for i in range(60):
        walk = walked(*([side[i] for side in box] for box in (teacher, student)), a[i], b[i], c[i])
        if walk is None:
            continue
        seen += 1
        assert found.lower[i] <= walk[0] + ROUNDING and found.upper[i] >= walk[1] - ROUNDING
        # Ends of edges are walked through, and tops are flat: the curvature is below 1/5, a step 2 size / 4000.
        near = (2 * size / 4000) ** 2 + 1e-12
        assert found.lower[i] >= walk[0] - near and found.upper[i] <= walk[1] + near
    assert seen > 20


@given(seeds)
@settings(max_examples=30)
def test_the_polygon_holds_a_grid_of_its_points(seed):
    g = generator(seed)
    teacher, student = (Bounds(*uniform((2, 1), -5, 5, g).sort(dim=0).values) for _ in range(2))
    a, b, c = half_planes(1, 3, g, size=4.0)
    share = torch.linspace(0, 1, 200, dtype=torch.float64)
    x = (teacher.lower + share * 2 * teacher.radius)[:, None, None]
    y = (student.lower + share * 2 * student.radius)[None, :, None]
    inside = (a * x - b * y >= c).all(dim=-1)
    gap = ((-x).sigmoid() - (-y).sigmoid()).squeeze(-1)[inside]
    assert_contains(sigmoid_polygon(teacher, student, a, b, c), gap)


def single(*rows):
    return [torch.tensor([row], dtype=torch.float64) for row in rows]


def wide(size):
    return Bounds(torch.tensor([-size], dtype=torch.float64), torch.tensor([size], dtype=torch.float64))


@pytest.mark.parametrize("size", [9.0, 1e4, 1e7])
@pytest.mark.parametrize("c", [-2.0, -0.5, 1.5])
def test_a_link_of_slope_one_has_a_closed_form(size, c):
    """s_T - s_S >= c alone: for c < 0 the best is s_S = -c / 2 = -s_T, so tanh(-c / 4); else it is at the far ends."""
    found = sigmoid_polygon(wide(size), wide(size), *single([1.0], [1.0], [c]))
    far = 1 / (1 + np.exp(min(size, 700))) - 1 / (1 + np.exp(min(size, 700) - c))
    rounding = 1e-13 + 1e-14 * size
    assert found.upper.item() == pytest.approx(np.tanh(-c / 4) if c < 0 else far, abs=rounding)
    assert found.lower.item() == pytest.approx(-np.tanh(size / 2), abs=rounding)


def test_a_narrow_way_between_two_far_ends_is_found():
    """y = x + 1e4: at both ends of the box the difference is 1/2, in the middle 1."""
    found = sigmoid_polygon(
        Bounds(*single(-1e4, 0.0)), Bounds(*single(0.0, 1e4)), *single([1.0, -1.0], [1.0, -1.0], [-1e4, 1e4])
    )
    assert found.upper.item() == pytest.approx(1)
    assert found.lower.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "useless",
    [
        (0.0, 0.0, 1.0),
        (0.0, 0.0, -1.0),
        (torch.nan, 1.0, 0.0),
        (1.0, torch.inf, 0.0),
        (1.0, 1.0, -torch.inf),
        (1.0, 1.0, torch.nan),
    ],
    ids=str,
)
def test_a_half_plane_that_says_nothing_changes_nothing_beside_others(useless):
    g = generator(11)
    teacher, student = (Bounds(*uniform((2, 200), -5, 5, g).sort(dim=0).values) for _ in range(2))
    a, b, c = half_planes(200, 3, g, size=4.0)
    more = [
        torch.cat([side, torch.full((200, 1), value).double()], dim=1)
        for side, value in zip((a, b, c), useless, strict=True)
    ]
    torch.testing.assert_close(
        sigmoid_polygon(teacher, student, *more), sigmoid_polygon(teacher, student, a, b, c), rtol=0, atol=0
    )


def test_many_half_planes_through_one_point_leave_the_point():
    angle = torch.linspace(0, 2 * np.pi, 13, dtype=torch.float64)[None, :-1]
    x, y = 0.25, -1.125
    a, b = angle.cos(), angle.sin()
    found = sigmoid_polygon(wide(5.0), wide(5.0), a, b, a * x - b * y)
    point = torch.tensor(-x).double().sigmoid() - torch.tensor(-y).double().sigmoid()
    assert found.lower.item() <= found.upper.item()
    torch.testing.assert_close(found, Bounds(point[None], point[None]), rtol=0, atol=1e-12)


def test_a_half_plane_that_only_touches_the_best_corner_does_not_cut_it_off():
    """Rounding puts some of these corners on the wrong side; another half plane's edge is not the best for that."""
    g = generator(5)
    teacher, student = (Bounds(*uniform((2, 500), -5, 5, g).sort(dim=0).values) for _ in range(2))
    a, b = uniform((2, 500), 0.1, 3, g)
    touching = a * teacher.lower - b * student.upper
    elsewhere = torch.stack([a, -a], dim=1), torch.stack([b, -b], dim=1)
    middle = a * teacher.centre - b * student.centre
    found = sigmoid_polygon(teacher, student, *elsewhere, torch.stack([touching, -middle], dim=1))
    corner = (-teacher.lower).sigmoid() - (-student.upper).sigmoid()
    torch.testing.assert_close(found.upper, corner, rtol=0, atol=1e-13)


def test_one_half_plane_twice_or_scaled_is_one_half_plane():
    once = sigmoid_polygon(wide(5.0), wide(5.0), *single([1.1], [0.9], [-0.7]))
    often = sigmoid_polygon(
        wide(5.0), wide(5.0), *single([1.1, 1.1, 1.1 / 3], [0.9, 0.9, 0.9 / 3], [-0.7, -0.7, -0.7 / 3])
    )
    torch.testing.assert_close(often, once, rtol=0, atol=1e-13)
    assert once.upper < 0.9


@pytest.mark.parametrize(
    "rows",
    [
        ([], [], []),
        ([0.0], [0.0], [-1.0]),
        ([0.0], [0.0], [0.0]),
        ([1.0], [1.0], [-torch.inf]),
        ([1.0], [torch.inf], [0.0]),
        ([1.0], [1.0], [torch.nan]),
        ([1.0, -1.0], [1.0, -1.0], [1.0, 1.0]),  # contradictory
        ([1.0], [1.0], [-20.0]),  # beyond the box
    ],
)
def test_what_says_nothing_leaves_the_box(rows):
    found = sigmoid_polygon(wide(2.0), wide(3.0), *(row.view(1, -1) for row in single(*rows)))
    whole = torch.tensor(2.0).double().sigmoid() - torch.tensor(-3.0).double().sigmoid()
    torch.testing.assert_close(found, Bounds(-whole[None], whole[None]), rtol=0, atol=ROUNDING)


def test_an_infinite_side_leaves_the_box():
    found = sigmoid_polygon(wide(torch.inf), wide(1.0), *single([1.0], [1.0], [-0.1]))
    torch.testing.assert_close(found.upper, 1 - torch.tensor([-1.0]).double().sigmoid())
    assert found.lower.isfinite().all()


def test_more_half_planes_are_tighter():
    g = generator(0)
    teacher, student = (Bounds(*uniform((2, 200), -5, 5, g).sort(dim=0).values) for _ in range(2))
    at_t, at_s = points(teacher, 1, g)[0], points(student, 1, g)[0]
    a, b = uniform((2, 200, 5), 0.3, 1.5, g)
    c = a * at_t[:, None] - b * at_s[:, None] - uniform((200, 5), 0, 1, g)
    bounds = [sigmoid_polygon(teacher, student, a[:, :i], b[:, :i], c[:, :i]) for i in range(6)]
    for more, fewer in itertools.pairwise(reversed(bounds)):
        assert_inside(more, fewer, 1e-13)
        assert_contains(more, (-at_t).sigmoid() - (-at_s).sigmoid())


@given(seeds, classes)
@settings(max_examples=30)
def test_cuts_through_margins_that_move_together_hold_every_one_of_them(seed, k):
    """The whole way: margins that share a cause, cut planes, the least value on each, and the polygon they leave."""
    g = generator(seed)
    shared = uniform((300, 10, k - 1), -1, 1, g)
    m_t, m_s = 2 * shared + uniform((10, k - 1), -2, 2, g), 2 * shared + uniform(shared.shape, -0.3, 0.3, g)
    teacher, student = (Bounds(m.amin(dim=0), m.amax(dim=0)) for m in (m_t, m_s))
    p, q = tangent(teacher), secant(student)
    least = (p * m_t).sum(dim=-1).sub((q * m_s).sum(dim=-1)).amin(dim=0) + lower_cut(p) - upper_cut(student, q)
    one = torch.ones(10, 1, dtype=torch.float64)
    found = sigmoid_polygon(logsumexp(teacher), logsumexp(student), one, one, least[:, None])
    assert_contains(found, f(m_t) - f(m_s))
    assert_inside(found, separate(teacher, student))


# --- Numbers of every kind --------------------------------------------------------------------------------------------


def everything(teacher, student, difference):
    s_t, s_s = logsumexp(teacher), logsumexp(student)
    one = torch.ones_like(s_t.lower)[:, None]
    return {
        "confidence": confidence(teacher),
        "separate": separate(teacher, student),
        "difference": difference_box(teacher, student, difference),
        "polygon": sigmoid_polygon(s_t, s_s, one, one, (s_t.lower - s_s.upper)[:, None] / 2),
        "tangent": (lower_cut(tangent(teacher)),),
        "secant": (secant(teacher), upper_cut(teacher, secant(teacher))),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_large_margins_stay_finite_and_within_one_in_both_precisions(dtype, scale):
    boxes = [Bounds(*(scale * side for side in box)) for box in pair(50, 9, generator(1))[:3]]
    wanted = everything(*boxes)
    found = everything(*(Bounds(*(side.to(dtype) for side in box)) for box in boxes))
    for name, values in found.items():
        for value, expected in zip(values, wanted[name], strict=True):
            assert value.dtype == dtype and value.isfinite().all(), name
            if name in ("confidence", "separate", "difference", "polygon"):
                assert (value.abs() <= 1).all(), name
                slack = 1e-6 * scale if dtype == torch.float32 else 0
                assert ((value - expected).abs() <= slack).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_bounds_say_nothing_and_are_never_nan(dtype):
    infinite = torch.full((1, 3), torch.inf, dtype=dtype)
    zero = torch.zeros_like(infinite)
    sides = [Bounds(-infinite, infinite), Bounds(-infinite, zero), Bounds(zero, infinite), Bounds(zero, zero)]
    for boxes in itertools.product(sides, repeat=3):
        for name, values in everything(*boxes).items():
            for value in values:
                assert not value.isnan().any(), (name, boxes)
    unknown = Bounds(-infinite, infinite)
    assert confidence(unknown) == Bounds(torch.zeros(1), torch.ones(1))
    assert difference_box(unknown, unknown, unknown) == Bounds(-torch.ones(1), torch.ones(1))
    assert upper_cut(unknown, secant(unknown)) == torch.inf


def test_an_empty_batch_has_empty_bounds():
    empty = Bounds(torch.zeros(0, 4), torch.zeros(0, 4))
    for name, values in everything(empty, empty, empty).items():
        for value in values:
            assert value.shape[0] == 0, name
