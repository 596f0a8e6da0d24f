import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.activations import MaxPool, ReLU
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds, Window

from .networks import ROUNDING, normal, uniform

LEAKS = (0.0, 0.01, 0.3, 0.9)
every_leak = pytest.mark.parametrize("leak", LEAKS)
# Open to either side, closed on either side, and both again with an end or both at zero.
SIDES = [
    (-2, 1),
    (-1, 2),
    (-1, 1),
    (1, 3),
    (-3, -1),
    (0, 2),
    (-2, 0),
    (0, 0),
    (-1, -1),
    (2, 2),
    (-1e-12, 1),
    (-1, 1e-12),
]


def sides():
    lower, upper = torch.tensor(SIDES, dtype=torch.float64).T
    return Bounds(lower[None], upper[None])


def one_by_one(weight):
    """Return rows, one for each of the intervals, with this weight there."""
    return LinearBounds(
        weight * torch.eye(len(SIDES), dtype=torch.float64), normal(len(SIDES)), torch.zeros(len(SIDES)).long()
    )


def along(before, count=201):
    """Return points from one end of every interval to the other, ``[count, F]``."""
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    return before.lower + share * (before.upper - before.lower)


@every_leak
def test_relu_forward_is_the_function_at_both_ends(leak):
    before = sides()
    after = ReLU(leak=leak).forward(before)
    values = F.leaky_relu(along(before), leak)
    torch.testing.assert_close(after.lower[0], values.amin(dim=0))
    torch.testing.assert_close(after.upper[0], values.amax(dim=0))


@every_leak
@pytest.mark.parametrize("weight", [1.0, -1.0, 2.5, 0.0])
def test_a_line_is_nowhere_above_the_function_and_touches_it(leak, weight):
    before, rows, z = sides(), one_by_one(weight), along(sides())
    propagated = ReLU(leak=leak).propagate_backward(rows, [before])[0]
    line = z @ propagated.weight.T + propagated.bias
    truth = F.leaky_relu(z, leak) @ rows.weight.T + rows.bias
    assert (line <= truth + ROUNDING).all()
    torch.testing.assert_close((truth - line).amin(dim=0), torch.zeros(len(SIDES)).double(), rtol=0, atol=ROUNDING)
    closed = torch.tensor([not low < 0 < high for low, high in SIDES])
    torch.testing.assert_close(line[:, closed], truth[:, closed], rtol=0, atol=ROUNDING)
    if weight < 0:  # the chord touches at both ends
        torch.testing.assert_close(line[[0, -1]], truth[[0, -1]], rtol=0, atol=ROUNDING)


@every_leak
def test_the_lower_line_is_the_one_nearest_in_area(leak):
    """Of the two pieces of the function (Zhang et al. 2018): the identity where the positive part is longer."""
    slope = ReLU(leak=leak).slope(sides())[0].tolist()
    for (low, high), found in zip(SIDES, slope, strict=True):
        assert found == (1.0 if high > -low else leak), (low, high)


@every_leak
def test_any_slope_between_the_pieces_holds_where_the_sign_is_open(leak):
    before, z = sides(), along(sides())
    rows = one_by_one(1.5)
    slope = leak + (1 - leak) * uniform(*rows.weight.shape, seed=3)
    propagated = ReLU(leak=leak).propagate_backward(rows, [before], slope)[0]
    line, truth = z @ propagated.weight.T + propagated.bias, F.leaky_relu(z, leak) @ rows.weight.T + rows.bias
    assert (line <= truth + ROUNDING).all()
    for i, (low, high) in enumerate(SIDES):
        if low < 0 < high:
            assert propagated.weight[i, i] == 1.5 * slope[i, i]
        else:  # known signs have no slope to choose
            torch.testing.assert_close(line[:, i], truth[:, i], rtol=0, atol=ROUNDING)


@every_leak
def test_slopes_that_no_leaky_relu_allows_do_no_harm(leak):
    """The optimiser moves slopes in [0, 1]; a line flatter than the leak would be above the function on the left."""
    before, z, rows = sides(), along(sides()), one_by_one(1.0)
    propagated = ReLU(leak=leak).propagate_backward(rows, [before], torch.zeros_like(rows.weight))[0]
    line, truth = z @ propagated.weight.T + propagated.bias, F.leaky_relu(z, leak) @ rows.weight.T + rows.bias
    assert (line <= truth + ROUNDING).all()


def test_slopes_do_not_touch_the_upper_side():
    before, rows = sides(), one_by_one(-1.0)
    with_slopes = ReLU().propagate_backward(rows, [before], uniform(*rows.weight.shape))[0]
    without = ReLU().propagate_backward(rows, [before])[0]
    assert torch.equal(with_slopes.weight, without.weight) and torch.equal(with_slopes.bias, without.bias)


def test_relu_is_open_where_zero_is_inside():
    assert ReLU().open(sides())[0].tolist() == [low < 0 < high for low, high in SIDES]


def test_relu_pulls_windows_as_it_pulls_maps():
    shape = (2, 4, 4)
    centre = normal(3, *shape)
    before = Bounds(centre - uniform(3, *shape, seed=1), centre + uniform(3, *shape, seed=2))
    place = torch.tensor([[0, 0], [3, 1], [2, 3], [1, 1]])
    rows = LinearBounds(
        normal(4, 2, 3, 3, seed=3), normal(4), torch.tensor([0, 2, 1, 2]), Window(place, (1, 1), (1, 1))
    )
    rows = rows.with_weight(rows.weight * rows.values(torch.ones(1, *shape).double()))
    slope = uniform(*rows.weight.shape, seed=4)
    for choice, on_the_map in ((None, None), (slope, rows.with_weight(slope).dense(shape).weight)):
        found = ReLU().propagate_backward(rows, [before], choice)[0]
        twin = ReLU().propagate_backward(rows.dense(shape), [before], on_the_map)[0]
        torch.testing.assert_close(found.dense(shape).weight, twin.weight)
        torch.testing.assert_close(found.bias, twin.bias)


POOLS = {
    "2x2": ((2, 2), (2, 2), (0, 0), (1, 1)),
    "3x3 overlapping": ((3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 stride 2": ((3, 3), (2, 2), (1, 1), (1, 1)),
    "oblong": ((1, 3), (2, 1), (0, 1), (1, 1)),
    "dilated": ((2, 2), (1, 2), (1, 0), (2, 3)),
    "last lines left": ((2, 2), (3, 3), (0, 0), (1, 1)),
    "single": ((1, 1), (2, 2), (0, 0), (1, 1)),
}
every_pool = pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)


def pool(options):
    kernel, stride, padding, dilation = options
    made = MaxPool(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    return made, lambda x: F.max_pool2d(x, kernel, stride, padding, dilation)


@every_pool
def test_max_pool_forward_is_the_function_at_both_ends(options):
    made, function = pool(options)
    lower = normal(3, 2, 5, 6)
    upper = lower + uniform(3, 2, 5, 6)
    after = made.forward(Bounds(lower, upper))
    assert torch.equal(after.lower, function(lower)) and torch.equal(after.upper, function(upper))


@every_pool
@pytest.mark.parametrize("width", [0.0, 0.3, 2.0])
def test_max_pool_rows_are_nowhere_above(options, width):
    """Whatever the input within its bounds; and equal where it is one point."""
    made, function = pool(options)
    lower = normal(3, 2, 5, 6)
    before = Bounds(lower, lower + width * uniform(3, 2, 5, 6, seed=1))
    shape = function(lower).shape[1:]
    rows = LinearBounds(normal(12, *shape, seed=2), normal(12, seed=3), torch.arange(12) % 3)
    propagated = made.propagate_backward(rows, [before])[0]
    assert propagated.weight.shape == (12, 2, 5, 6)
    for seed in range(100):
        x = before.lower + uniform(3, 2, 5, 6, low=-0.5, high=1.5, seed=seed).clamp(0, 1) * (
            before.upper - before.lower
        )
        line, truth = propagated.dot(x) + propagated.bias, rows.dot(function(x)) + rows.bias
        assert (line <= truth + ROUNDING).all()
    if width == 0:
        torch.testing.assert_close(line, truth)


def test_max_pool_is_linear_where_one_input_always_wins():
    made, _ = pool(POOLS["2x2"])
    lower = torch.zeros(1, 1, 2, 4).double()
    upper = torch.full((1, 1, 2, 4), 0.9, dtype=torch.float64)
    lower[..., 1, 1], upper[..., 1, 1] = 1.0, 5.0  # the first window has a winner, the second none
    for sign in (1.0, -1.0):
        rows = LinearBounds(
            torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double().view(2, 1, 1, 2) * sign,
            torch.zeros(2).double(),
            torch.zeros(2).long(),
        )
        propagated = made.propagate_backward(rows, [Bounds(lower, upper)])[0]
        winner = torch.zeros(1, 2, 4).double()
        winner[0, 1, 1] = sign
        assert torch.equal(propagated.weight[0], winner) and propagated.bias[0] == 0
        if sign > 0:
            assert propagated.weight[1].sum() == 1 and propagated.bias[1] == 0
        else:
            assert not propagated.weight[1].any() and propagated.bias[1] == -0.9


def test_max_pool_takes_windows_of_rows():
    made, _ = pool(POOLS["3x3 stride 2"])
    lower = normal(2, 2, 6, 6)
    before = Bounds(lower, lower + 0.4)
    rows = LinearBounds(normal(2, 2, 2, 2), normal(2), torch.arange(2), Window(torch.tensor([[0, 0], [1, 1]])))
    found, twin = (made.propagate_backward(each, [before])[0] for each in (rows, rows.dense((2, 3, 3))))
    torch.testing.assert_close(found.weight, twin.weight)
    torch.testing.assert_close(found.bias, twin.bias)


def test_max_pool_is_open_where_a_value_may_change():
    lower = torch.tensor([[0.0, 1.0]])
    assert pool(POOLS["2x2"])[0].open(Bounds(lower, torch.tensor([[0.0, 2.0]]))).tolist() == [[False, True]]
