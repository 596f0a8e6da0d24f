"""Lines below and above smooth functions, by grid and by sampling; how near they are to the best there are."""

from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overproof.bounds import functions
from overproof.bounds.functions import Function, softplus
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds, Window
from overproof.bounds.smooth import Smooth

from .networks import normal, uniform
from .test_functions import FUNCTIONS, every_function

UNIT = torch.finfo(torch.float64).eps


def intervals(function: Function, count: int = 3000, kind: torch.dtype = torch.float64) -> Bounds:
    """Return intervals of all widths around numbers of all sizes, ``[1, count]``, where the function has values."""
    centre = normal(count) * 10 ** uniform(count, low=-1, high=1, seed=1)
    radius = 10 ** uniform(count, low=-4, high=1, seed=2)
    low, high = centre - radius, centre + radius
    if function.name == "exp":  # else the values of one interval are of a thousand sizes
        low, high = low.clamp(-20, 18), high.clamp(-18, 20) + 1e-3
    if function.undefined is not None:
        low, high = torch.minimum(low.abs(), high.abs()) + 1e-2, torch.maximum(low.abs(), high.abs()) + 2e-2
    return Bounds(low.to(kind)[None], high.to(kind)[None])


def along(before: Bounds, count: int = 501):
    """Return points from one end of every interval to the other, ``[count, F]`` in float64."""
    low, high = (side[0].double() for side in before)
    return low + torch.linspace(0, 1, count, dtype=torch.float64)[:, None] * (high - low)


def rounding(*values):
    """Return what float64 may do to sums of a few numbers of these sizes."""
    return 8 * UNIT * (1 + sum(each.abs() for each in values))


@every_function
def test_the_range_is_exact(function):
    before = intervals(function)
    found, values = Smooth(function=function).forward(before), function.value(along(before, 4001))
    slack = 20 * rounding(values).amax(dim=0)  # an argument of exp up to 20 is itself rounded
    assert (found.lower[0] <= values.amin(dim=0) + slack).all()
    assert (found.upper[0] >= values.amax(dim=0) - slack).all()
    ends = torch.stack([function.value(side[0]) for side in before])
    inside = [torch.tensor(turn, dtype=torch.float64) for turn in function.turns]
    least = ends.amin(dim=0)
    for turn in inside:
        least = torch.where((before.lower[0] < turn) & (before.upper[0] > turn), function.value(turn), least)
    # One number by itself may be computed by other instructions than many.
    torch.testing.assert_close(found.lower[0], torch.minimum(least, ends.amin(dim=0)), rtol=8 * UNIT, atol=8 * UNIT)
    assert torch.equal(found.upper[0], ends.amax(dim=0))


@every_function
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_lines_are_nowhere_on_the_wrong_side(function, kind):
    """In exact arithmetic: lines of float32 are compared in float64."""
    before = intervals(function, kind=kind)
    below, under, above, over = (each[0].double() for each in Smooth(function=function).lines(before))
    x = along(before)
    values = function.value(x)
    slack = rounding(values, below * x, above * x)
    assert (below * x + under <= values + slack).all()
    assert (above * x + over >= values - slack).all()


@every_function
def test_a_line_is_nearly_as_high_in_the_middle_as_any(function):
    """Of all lines below a function, none is higher in the middle than its lower convex hull there.

    The hull of a grid, with the ends of pieces, at which a function may have a corner, is a little above the true one,
    and a tangent through an end is found by halving.
    """
    before = intervals(function, 1000)
    before = Bounds(*(side[:, (before.upper - before.lower)[0] < 8] for side in before))
    x = along(before, 201)
    middle, width = x[100], x[-1] - x[0]
    lines = [each[0] for each in Smooth(function=function).lines(before)]
    corners = {end for piece in (*function.convex, *function.concave) for end in (piece.low, piece.high)} - {-inf, inf}
    ends = torch.tensor(sorted(corners), dtype=x.dtype)[:, None]
    left = torch.cat([x[:100:5], torch.minimum(torch.maximum(ends, x[0]), middle)])[:, None]
    right = torch.cat([x[105::5], torch.minimum(torch.maximum(ends, middle + width / 1e6), x[-1])])[None]
    for sign, slope, height in ((1, *lines[:2]), (-1, *lines[2:])):
        f = sign * function.value(x)
        share = (middle - left) / (right - left)
        chords = sign * (function.value(left) * (1 - share) + function.value(right) * share)
        hull = torch.minimum(chords.flatten(0, 1).amin(dim=0), f[100])
        gap = hull - sign * (slope * middle + height)
        assert (gap <= 0.01 * width * (1 + f.abs().amax(dim=0))).all()


@every_function
def test_at_a_point_the_lines_are_the_value(function):
    point = intervals(function).centre
    lines = Smooth(function=function).lines(Bounds(point, point))
    values = function.value(point)
    for slope, height in (lines[:2], lines[2:]):
        slack = 200 * UNIT * (1 + values.abs() + (slope * point).abs())  # 64 of them are taken off on purpose
        assert ((slope * point + height - values).abs() <= slack).all()


@given(
    st.sampled_from(FUNCTIONS),
    st.floats(-1e4, 1e4),
    st.floats(0, 1e4),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.booleans(),
)
def test_no_interval_is_found_on_which_a_line_does_not_hold(function, low, width, shares, single):
    if function.name == "exp":
        low, width = max(min(low, 300.0), -300.0), min(width, 100.0)
    kind = torch.float32 if single and function.name != "exp" else torch.float64
    if function.undefined is not None:
        low = abs(low) + 1e-3
    before = Bounds(*(torch.tensor([[end]], dtype=torch.float64).to(kind) for end in (low, low + width)))
    below, under, above, over = (each.double() for each in Smooth(function=function).lines(before))
    low, high = (side.double() for side in before)
    x = (low + torch.tensor(shares, dtype=torch.float64)[:, None] * (high - low)).clamp(low, high)
    values = function.value(x)
    slack = rounding(values, below * x, above * x)
    assert (below * x + under <= values + slack).all()
    assert (above * x + over >= values - slack).all()


@pytest.mark.parametrize("function", [functions.RECIPROCAL, functions.RSQRT, functions.SQRT, functions.LOG])
def test_nothing_is_known_where_the_function_has_no_value(function):
    smooth = Smooth(function=function)
    before = Bounds(torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0]]))
    found, lines = smooth.forward(before), smooth.lines(before)
    assert found.lower[0, :2].tolist() == [-torch.inf] * 2 and found.upper[0, :2].tolist() == [torch.inf] * 2
    assert lines.under[0, :2].tolist() == [-torch.inf] * 2 and lines.over[0, :2].tolist() == [torch.inf] * 2
    rows = LinearBounds(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]), torch.zeros(2), torch.zeros(2).long())
    (propagated,) = smooth.propagate_backward(rows, [before])
    assert torch.isfinite(propagated.bias[0]) and propagated.bias[1] == -torch.inf
    assert torch.isfinite(propagated.weight).all() and propagated.weight[0, 2] != 0


def test_the_reciprocal_of_negative_numbers_is_held_as_that_of_positive_ones():
    positive = intervals(functions.RECIPROCAL, 200)
    smooth = Smooth(function=functions.RECIPROCAL)
    lines = smooth.lines(positive)
    mirrored = smooth.lines(Bounds(-positive.upper, -positive.lower))
    torch.testing.assert_close(mirrored.below, lines.above)
    torch.testing.assert_close(mirrored.under, -lines.over)
    torch.testing.assert_close(mirrored.over, -lines.under)


def test_torch_s_threshold_is_allowed_for():
    """Above it torch's softplus is the number itself, a little less than the function."""
    before = Bounds(torch.tensor([[1.0, 2.5]]).double(), torch.tensor([[4.0, 9.0]]).double())
    smooth = Smooth(function=softplus(3.0))
    x = along(before, 1001)
    values = torch.nn.functional.softplus(x, threshold=3.0)
    lines = [each[0] for each in smooth.lines(before)]
    assert (lines[0] * x + lines[1] <= values).all() and (lines[2] * x + lines[3] >= values).all()
    assert (smooth.forward(before).lower[0] <= values.amin(dim=0)).all()


def test_rows_become_the_lines_of_their_side():
    smooth, before = Smooth(function=functions.GELU), intervals(functions.GELU, 6)
    rows = LinearBounds(normal(4, 6, seed=5), normal(4, seed=6), torch.zeros(4).long())
    (propagated,) = smooth.propagate_backward(rows, [before])
    lines = smooth.lines(before)
    below, above = rows.weight.clamp(min=0), rows.weight.clamp(max=0)
    torch.testing.assert_close(propagated.weight, below * lines.below + above * lines.above)
    torch.testing.assert_close(propagated.bias, rows.bias + (below * lines.under + above * lines.over).sum(dim=1))


def test_windows_are_propagated_as_maps_are():
    shape = (2, 4, 4)
    centre = normal(3, *shape)
    before = Bounds(centre - uniform(3, *shape, seed=1), centre + uniform(3, *shape, seed=2))
    place = torch.tensor([[0, 0], [3, 1], [2, 3], [1, 1]])
    rows = LinearBounds(
        normal(4, 2, 3, 3, seed=3), normal(4), torch.tensor([0, 2, 1, 2]), Window(place, (1, 1), (1, 1))
    )
    rows = rows.with_weight(rows.weight * rows.values(torch.ones(1, *shape).double()))
    found, twin = (
        Smooth(function=functions.SILU).propagate_backward(each, [before])[0] for each in (rows, rows.dense(shape))
    )
    torch.testing.assert_close(found.dense(shape).weight, twin.weight)
    torch.testing.assert_close(found.bias, twin.bias)


def test_lines_are_those_of_the_intervals_asked_for():
    """They are kept for the next rows over the same intervals, and made again for others."""
    smooth = Smooth(function=functions.TANH)
    first, second = intervals(functions.TANH, 5), Bounds(torch.zeros(1, 5).double(), torch.ones(1, 5).double())
    assert smooth.lines(first) is smooth.lines(first)
    alone = Smooth(function=functions.TANH).lines(second)
    assert all(torch.equal(one, other) for one, other in zip(smooth.lines(second), alone, strict=True))


@pytest.mark.parametrize("function", [functions.GELU, functions.SIGMOID, functions.HARDSWISH], ids=lambda f: f.name)
def test_gradients_are_numbers(function):
    """Also at intervals that are points, and at the ends of pieces."""
    low = torch.tensor([[-3.0, -1.0, 0.0, 0.0, 2.0, -9.0]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([[-3.0, 1.0, 0.0, 3.0, 2.5, 9.0]], dtype=torch.float64, requires_grad=True)
    smooth = Smooth(function=function)
    total = sum(each.sum() for each in (*smooth.lines(Bounds(low, high)), *smooth.forward(Bounds(low, high))))
    for slope in torch.autograd.grad(total, (low, high)):
        assert torch.isfinite(slope).all()
