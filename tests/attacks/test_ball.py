import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest, uniform

from overproof.attacks.ball import Radius, ball, check_eps

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


def test_other_norms_and_the_whole_range_may_be_that_large():
    check_eps("linf", 1.0)
    check_eps("l2", 8.0)
    check_eps("l1", 12.0)


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
    # max of g . d over |d| <= 1 is |g|_1 for linf and |g|_2 for l2: no direction climbs faster.
    gradient = torch.randn(5, 3, 6, 6).double()
    flat = gradient.flatten(1)
    for norm, fastest in (("linf", flat.abs().sum(dim=1)), ("l2", flat.norm(dim=1))):
        climbed = (ball(norm, 0.5).steepest(gradient) * gradient).flatten(1).sum(dim=1)
        torch.testing.assert_close(climbed, fastest)


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
