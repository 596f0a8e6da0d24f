import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from scipy.stats import beta, kstest, uniform

from overproof.attacks.ball import Radius, Threat, ball, check_eps

NORMS = ("linf", "l2", "l1")
every_norm = pytest.mark.parametrize("norm", NORMS)


# --- Radius -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "text", "value"),
    [
        ("8/255", "8/255", 8 / 255),
        (" 8 / 255 ", "8/255", 8 / 255),
        ("0.031", "0.031", 0.031),
        ("1e-2", "1e-2", 0.01),
        (0.1, "0.1", 0.1),
        (3, "3", 3.0),
        (Radius("2/255"), "2/255", 2 / 255),
    ],
)
def test_a_radius_is_a_number_that_remembers_its_text(written, text, value):
    radius = Radius(written)
    assert (str(radius), f"{radius}", radius.text) == (text, text, text)
    assert radius == value and hash(radius) == hash(value)
    assert 2 * radius == 2 * value


@pytest.mark.parametrize(
    "clone",
    [
        lambda radius: pickle.loads(pickle.dumps(radius)),
        copy.copy,
        copy.deepcopy,
        lambda radius: eval(repr(radius), {"Radius": Radius}),
        lambda radius: Radius(str(radius)),
    ],
    ids=["pickle", "copy", "deepcopy", "repr", "str"],
)
def test_every_copy_of_a_radius_keeps_text_and_value(clone):
    cloned = clone(Radius("8/255"))
    assert type(cloned) is Radius
    assert (cloned, cloned.text) == (8 / 255, "8/255")


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_fraction_is_read_as_python_divides(above, below):
    assert Radius(f"{above}/{below}") == above / below


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_a_float_is_read_exactly(value):
    assert Radius(value) == value


@pytest.mark.parametrize("written", ["0", 0, 0.0, "-1/255", -0.1, "0/255", "1e-400"])
def test_a_radius_that_is_not_positive_is_refused(written):
    with pytest.raises(ValueError, match=f"^a length must be positive, got {written}$"):
        Radius(written)


@pytest.mark.parametrize(
    "written", ["nan", "inf", "-inf", math.nan, math.inf, "eight", "", "8/0", "8/255/2", "1e400", None, True]
)
def test_a_radius_that_is_no_number_is_refused(written):
    with pytest.raises(ValueError, match=r"^cannot read '.*' as a length; write it as 8/255 or 0\.031$"):
        Radius(written)


def test_an_linf_eps_in_0_to_255_units_is_refused_with_the_right_spelling():
    with pytest.raises(ValueError, match=r"^eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?$"):
        ball("linf", Radius("8"))
    with pytest.raises(ValueError, match=r"did you mean 2\.5/255\?$"):
        check_eps("linf", 2.5)
    with pytest.raises(ValueError, match=r"did you mean 8/255\?$"):
        Threat(eps=Radius("8"))


def test_other_norms_and_the_whole_range_may_be_that_large():
    check_eps("linf", 1.0)
    check_eps("l2", 8.0)
    check_eps("l1", 12.0)
    assert Threat(norm="l1", eps=Radius("12")).eps == 12


# --- projection -------------------------------------------------------------------------------------------------------


@st.composite
def situations(draw, dtype=None):
    """Return a norm, an eps, a clean batch (some pixels at 0 and 1) and a batch to project, far or near."""
    norm = draw(st.sampled_from(NORMS))
    eps = draw(st.floats(1e-3, 1.0 if norm == "linf" else 6.0))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = dtype or draw(st.sampled_from([torch.float32, torch.float64]))
    x = (1.4 * torch.rand(shape, generator=generator, dtype=dtype) - 0.2).clamp(0, 1)
    far = draw(st.sampled_from([1e-3, 0.1, 1.0, 30.0]))
    return norm, eps, x, x + far * torch.randn(shape, generator=generator, dtype=dtype)


def slack(x):
    """Return what rounding may add to a length: 32 units in the last place of the largest pixel."""
    return 32 * torch.finfo(x.dtype).eps * math.sqrt(x[0].numel())


@given(situations())
def test_a_projected_point_is_in_the_ball_and_an_image(situation):
    norm, eps, x, z = situation
    area = ball(norm, eps)
    before = z.clone(), x.clone()
    point = area.project(z, x)
    assert torch.equal(z, before[0]) and torch.equal(x, before[1])
    assert point.dtype == x.dtype and point.shape == x.shape
    assert (point >= 0).all() and (point <= 1).all()
    assert (area.size(point - x) <= eps + slack(x)).all()


@given(situations())
def test_projecting_twice_is_projecting_once(situation):
    norm, eps, x, z = situation
    area = ball(norm, eps)
    once = area.project(z, x)
    torch.testing.assert_close(area.project(once, x), once, rtol=0, atol=slack(x))


@given(situations())
def test_a_point_that_is_already_inside_stays(situation):
    norm, eps, x, z = situation
    area = ball(norm, eps)
    inside = x + 0.99 * (area.project(z, x) - x)
    torch.testing.assert_close(area.project(inside, x), inside, rtol=0, atol=slack(x))


def nearness_gap(norm, eps, x, z, point, worst_case):
    """Return how far ``point`` is from being nearest: max over the convex set of (z - point) . (q - point), which is 0
    exactly for the nearest point."""
    away = z - point
    return worst_case(norm, away, x, eps) - (away * (point - x)).flatten(1).sum(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_projection_is_the_nearest_point(norm, worst_case):
    @given(situations(dtype=torch.float64).filter(lambda situation: situation[0] == norm))
    def check(situation):
        _, eps, x, z = situation
        point = ball(norm, eps).project(z, x)
        scale = 1 + (z - x).square().flatten(1).sum(dim=1)
        assert (nearness_gap(norm, eps, x, z, point, worst_case) <= 1e-9 * scale).all()

    check()


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_point_of_a_fine_grid_is_nearer(norm):
    # The slow twin, in the plane: every point of a 401 x 401 grid over the unit square that lies in the ball.
    x = torch.tensor([0.85, 0.3]).double().reshape(1, 1, 1, 2)
    ticks = torch.linspace(0, 1, 401).double()
    grid = torch.cartesian_prod(ticks, ticks)
    eps = 0.4
    for z in torch.randn(40, 2).double():
        size = (grid - x.flatten()).abs()
        inside = grid[(size.amax(dim=1) if norm == "linf" else size.sum(dim=1)) <= eps + 1e-9]
        best = (inside - z).norm(dim=1).min()
        found = (ball(norm, eps).project(z.reshape(1, 1, 1, 2), x).flatten() - z).norm()
        assert found <= best + 1e-9  # no grid point is nearer
        assert found >= best - 0.005  # and the nearest grid point is at most a cell away


def test_l2_in_the_interior_shortens_the_perturbation_and_keeps_its_direction():
    x, delta = torch.full((2, 3, 2, 2), 0.5), torch.randn(2, 3, 2, 2)
    point = ball("l2", 0.25).project(x + delta, x)
    expected = 0.25 * delta / delta.flatten(1).norm(dim=1).reshape(2, 1, 1, 1)
    torch.testing.assert_close(point - x, expected, rtol=0, atol=1e-6)


@every_norm
def test_the_memory_layout_changes_nothing(norm):
    x, z = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    area = ball(norm, 0.7)
    last = {"memory_format": torch.channels_last}
    torch.testing.assert_close(area.project(z.contiguous(**last), x.contiguous(**last)), area.project(z, x))
    torch.testing.assert_close(area.steepest(z.contiguous(**last)), area.steepest(z))
    torch.testing.assert_close(area.size(z.contiguous(**last)), area.size(z))


# --- length and direction ---------------------------------------------------------------------------------------------


def test_lengths_by_hand():
    delta = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).reshape(2, 1, 1, 2)
    assert [ball(norm, 1.0).size(delta).tolist() for norm in NORMS] == [[4, 0], [5, 0], [7, 0]]


@every_norm
def test_the_steepest_direction_has_length_one(norm):
    gradient = torch.randn(5, 3, 6, 6).double()
    area = ball(norm, 0.5)
    direction = area.steepest(gradient)
    torch.testing.assert_close(area.size(direction), torch.ones(5).double())


def test_the_steepest_direction_reaches_the_dual_norm():
    # max of g . d over |d| <= 1 is |g|_1 for linf and |g|_2 for l2: no direction ascends faster.
    gradient = torch.randn(5, 3, 6, 6).double()
    flat = gradient.flatten(1)
    for norm, fastest in (("linf", flat.abs().sum(dim=1)), ("l2", flat.norm(dim=1))):
        gained = (ball(norm, 0.5).steepest(gradient) * gradient).flatten(1).sum(dim=1)
        torch.testing.assert_close(gained, fastest)


@pytest.mark.parametrize(("shape", "moved"), [((3, 8, 8), 10), ((1, 28, 28), 39), ((1, 2, 2), 1)])
def test_l1_moves_a_twentieth_of_the_pixels_the_steepest_ones(shape, moved):
    gradient = torch.randn(4, *shape)
    direction = ball("l1", 1.0).steepest(gradient).flatten(1)
    steep = gradient.flatten(1)
    assert ((direction != 0).sum(dim=1) == moved).all()
    for d, g in zip(direction, steep, strict=True):
        chosen = d != 0
        torch.testing.assert_close(d[chosen], g[chosen].sign() / moved)
        assert g[chosen].abs().min() >= g[~chosen].abs().max()


@every_norm
def test_a_flat_score_gives_no_direction_and_no_nan(norm):
    assert ball(norm, 0.5).steepest(torch.zeros(2, 3, 4, 4)).abs().sum() == 0


# --- uniform draws ----------------------------------------------------------------------------------------------------


@every_norm
def test_draws_are_inside_the_ball_and_differ_by_example(norm):
    area = ball(norm, 0.5)
    delta = area.uniform(torch.zeros(50, 3, 4, 4))
    assert delta.shape == (50, 3, 4, 4)
    assert (area.size(delta) <= 0.5 + 1e-6).all()
    assert len(delta.flatten(1).unique(dim=0)) == 50


@every_norm
def test_draws_fill_the_ball_evenly(norm):
    # In a ball of d dimensions the share of volume within radius r is (r / eps) ** d, whatever the norm.
    x, eps = torch.zeros(4000, 1, 1, 5).double(), 0.5
    delta = ball(norm, eps).uniform(x)
    volume = (ball(norm, eps).size(delta) / eps) ** 5
    assert kstest(volume.numpy(), uniform.cdf).pvalue > 0.01
    assert delta.flatten(1).mean(dim=0).abs().max() < 0.03 * eps


def test_each_coordinate_of_a_draw_is_distributed_as_in_a_uniform_ball():
    x, eps, d = torch.zeros(4000, 1, 1, 5).double(), 0.5, 5
    share = ball("linf", eps).uniform(x).flatten(1) / eps
    assert kstest(share[:, 2].numpy(), uniform(-1, 2).cdf).pvalue > 0.01
    delta = ball("l2", eps).uniform(x).flatten(1)
    squared = delta[:, 2] ** 2 / delta.square().sum(dim=1)
    assert kstest(squared.numpy(), beta(1 / 2, (d - 1) / 2).cdf).pvalue > 0.01
    share = ball("l1", eps).uniform(x).flatten(1) / eps
    assert kstest(share[:, 2].abs().numpy(), beta(1, d).cdf).pvalue > 0.01


@every_norm
def test_draws_are_functions_of_the_seed(norm):
    area, x = ball(norm, 0.5), torch.zeros(2, 3, 4, 4)
    torch.manual_seed(7)
    first = area.uniform(x)
    other = area.uniform(x)
    torch.manual_seed(7)
    assert torch.equal(area.uniform(x), first)
    assert not torch.equal(first, other)


# --- the shortest step onto a hyperplane ------------------------------------------------------------------------------


def least_length(norm, x, normal, gap):
    """Return the length of the shortest step by a solver that knows nothing of ours; one example, all flat."""
    low, high, normal = -x.numpy(), (1 - x).numpy(), normal.numpy()
    if norm == "l2":  # stationary where d = clip(t * normal, -x, 1 - x); find the multiplier t
        missing = lambda t: normal @ (t * normal).clip(low, high) - gap  # noqa: E731
        far = math.copysign(1e6, gap)
        t = brentq(missing, 0, far, xtol=1e-15, rtol=1e-14) if missing(0) * missing(far) < 0 else far * (gap != 0)
        return float((((t * normal).clip(low, high)) ** 2).sum() ** 0.5)
    n = len(normal)
    if norm == "linf":  # minimise t with -t <= d <= t
        cost, ties = [0] * n + [1], [[*row, -1] for sign in (1, -1) for row in (sign * torch.eye(n)).tolist()]
        equation, bounds = [*normal, 0], [*zip(low, high, strict=True), (0, None)]
    else:  # d = p - q with p, q >= 0; minimise their sum
        cost, ties = [1] * 2 * n, None
        equation, bounds = [*normal, *-normal], [*((0, h) for h in high), *((0, -w) for w in low)]
    right = None if ties is None else [0] * len(ties)
    return linprog(cost, A_ub=ties, b_ub=right, A_eq=[equation], b_eq=[gap], bounds=bounds).fun


def reach(x, normal, sign):
    """Return how far ``normal . d`` can go in one direction within the box, ``[N]``, never negative."""
    distance = torch.where(sign.reshape(-1, 1, 1, 1) * normal > 0, 1 - x, x)
    return (normal.abs() * distance).flatten(1).sum(dim=1)


def dot(normal, step):
    return (normal * step).flatten(1).sum(dim=1)


def planes(n, pixels, dtype=torch.float64):
    """Return images with a third of the pixels at 0 or 1, normals with some zeros and ties, and a sign for each."""
    x = (1.6 * torch.rand(n, 1, 1, pixels, dtype=dtype) - 0.3).clamp(0, 1)
    normal = torch.randn(n, 1, 1, pixels, dtype=dtype) * torch.randn(n, 1, 1, 1, dtype=dtype).exp()
    normal[::3, ..., :2] = 0
    normal[1::3] = normal[1::3].sign()
    return x, normal, torch.randn(n, dtype=dtype).sign()


@every_norm
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.8, 0.999])
def test_the_shortest_step_lies_on_the_plane_and_is_as_short_as_a_solver_finds(norm, share):
    x, normal, sign = planes(12, 7)
    gap = sign * share * reach(x, normal, sign)
    step = ball(norm, 1.0).shortest(x, normal, gap)
    assert step.shape == x.shape
    assert ((x + step >= -1e-15) & (x + step <= 1 + 1e-15)).all()
    torch.testing.assert_close(dot(normal, step), gap, rtol=1e-12, atol=1e-14)
    for i, length in enumerate(ball(norm, 1.0).size(step)):
        expected = least_length(norm, x[i].flatten(), normal[i].flatten(), float(gap[i]))
        assert float(length) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@every_norm
@pytest.mark.parametrize("beyond", [1.0001, 3.0, math.inf])
def test_towards_a_plane_outside_the_box_every_pixel_that_counts_goes_to_its_wall(norm, beyond):
    x, normal, sign = planes(12, 7)
    step = ball(norm, 1.0).shortest(x, normal, sign * beyond * reach(x, normal, sign))
    wall = (torch.sign(sign.reshape(-1, 1, 1, 1) * normal) + 1) / 2
    expected = torch.where(normal == 0, 0, wall - x)
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-15)


@every_norm
def test_without_a_normal_or_a_gap_the_shortest_step_is_none_and_the_neighbours_stay_right(norm):
    x, normal, sign = planes(5, 40)
    gap = sign * 0.2 * reach(x, normal, sign)
    expected = ball(norm, 1.0).shortest(x, normal, gap)
    normal[1] = 0
    gap[1], gap[2], gap[3] = 1.0, 0.0, math.nan
    step = ball(norm, 1.0).shortest(x, normal, gap)
    assert (step[1:4] == 0).all()
    torch.testing.assert_close(step[[0, 4]], expected[[0, 4]])
    assert expected.abs().sum() > 0


@every_norm
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_the_shortest_step_is_exact_in_float32_on_whole_images(norm, share):
    # 3072 pixels, of which l1 fills from a few to nearly all: each width of its search is met.
    x, normal = (1.2 * torch.rand(6, 3, 32, 32) - 0.1).clamp(0, 1), torch.randn(6, 3, 32, 32)
    sign = torch.tensor([1.0, -1, 1, -1, 1, -1])
    gap = sign * share * reach(x, normal, sign)
    step = ball(norm, 1.0).shortest(x, normal, gap)
    assert step.dtype == torch.float32
    assert ((x + step >= 0) & (x + step <= 1)).all()
    torch.testing.assert_close(dot(normal.double(), step.double()), gap.double(), rtol=1e-5, atol=0)
    exact = ball(norm, 1.0).shortest(x.double(), normal.double(), gap.double())
    torch.testing.assert_close(ball(norm, 1.0).size(step).double(), ball(norm, 1.0).size(exact), rtol=1e-5, atol=0)


@every_norm
@pytest.mark.parametrize("scale", [1e-33, 1e-12, 1e30])
def test_only_the_ratio_of_gap_and_normal_counts(norm, scale):
    # A power of two would be exact; these are as large and as small as gradients get, and squared leave float32.
    x, normal, sign = planes(6, 30, torch.float32)
    gap = sign * 0.3 * reach(x, normal, sign)
    step = ball(norm, 1.0).shortest(x, normal, gap)
    torch.testing.assert_close(ball(norm, 1.0).shortest(x, scale * normal, scale * gap), step, rtol=1e-4, atol=1e-5)


@every_norm
def test_the_shortest_step_knows_no_memory_layout_and_changes_nothing(norm):
    x, normal, gap = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.tensor([0.7, -0.4])
    before = x.clone(), normal.clone(), gap.clone()
    step = ball(norm, 1.0).shortest(x, normal, gap)
    last = {"memory_format": torch.channels_last}
    torch.testing.assert_close(ball(norm, 1.0).shortest(x.contiguous(**last), normal.contiguous(**last), gap), step)
    assert all(torch.equal(*pair) for pair in zip(before, (x, normal, gap), strict=True))
