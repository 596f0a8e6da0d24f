import itertools

import pytest
import torch

from overproof.bounds.region import Bounds, Region
from overproof.bounds.rows import LinearBounds, Window

from .networks import normal, points, uniform

SHAPE = (2, 5, 7)
LAYOUTS = {  # size of the window, stride, pad
    "a pixel": ((1, 1), (1, 1), (0, 0)),
    "inside": ((2, 3), (1, 1), (0, 0)),
    "over the edge": ((3, 4), (2, 1), (1, 2)),
    "strides apart": ((3, 2), (1, 3), (2, 0)),
    "far outside": ((6, 3), (2, 2), (4, 1)),
    "taller than the map": ((9, 1), (1, 1), (4, 0)),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def slow(rows, shape=SHAPE):
    """Return the weights on the whole map, number by number."""
    if rows.window is None:
        return rows.weight
    dense = torch.zeros(len(rows), *shape, dtype=rows.weight.dtype)
    for m, (down, across) in enumerate(rows.window.place.tolist()):
        for i, j in itertools.product(*(range(size) for size in rows.weight.shape[-2:])):
            y = down * rows.window.stride[0] - rows.window.pad[0] + i
            x = across * rows.window.stride[1] - rows.window.pad[1] + j
            if 0 <= y < shape[1] and 0 <= x < shape[2]:
                dense[m, :, y, x] += rows.weight[m, :, i, j]
            else:
                assert not rows.weight[m, :, i, j].any(), "weight outside the map"
    return dense


def windowed(layout, count=9, examples=3, shape=SHAPE, seed=0):
    """Return rows whose windows lie where a convolution's would, with nothing outside the map."""
    size, stride, pad = layout
    last = [max(0, (n + p - s) // step) for n, s, p, step in zip(shape[1:], size, pad, stride, strict=True)]
    place = torch.stack([uniform(count, high=end + 1, seed=seed + i).long() for i, end in enumerate(last)], dim=1)
    window = Window(place, stride, pad)
    lines = window.top()[:, None] + torch.arange(size[0])
    columns = window.left()[:, None] + torch.arange(size[1])
    inside = ((lines >= 0) & (lines < shape[1]))[:, None, :, None] & ((columns >= 0) & (columns < shape[2]))[
        :, None, None
    ]
    weight = normal(count, shape[0], *size, seed=seed) * inside
    return LinearBounds(weight, normal(count, seed=seed + 1), torch.arange(count) % examples, window)


def whole(count=9, examples=3, shape=SHAPE, seed=0):
    return LinearBounds(normal(count, *shape, seed=seed), normal(count, seed=seed + 1), torch.arange(count) % examples)


def same(rows, twin, shape=SHAPE):
    torch.testing.assert_close(slow(rows, shape), slow(twin, shape))
    torch.testing.assert_close(rows.bias, twin.bias)
    assert torch.equal(rows.example, twin.example)


@every_layout
def test_dense_puts_every_weight_where_it_belongs(layout):
    rows = windowed(layout)
    dense = rows.dense(SHAPE)
    assert dense.window is None
    assert torch.equal(dense.weight, slow(rows))
    assert torch.equal(dense.bias, rows.bias)
    assert dense.dense(SHAPE) is dense


@every_layout
@pytest.mark.parametrize("examples", [1, 3])
def test_values_are_what_the_weights_multiply(layout, examples):
    """Of a layer of every example, or of one that all share."""
    rows, layer = windowed(layout), normal(examples, *SHAPE, seed=5)
    found = rows.values(layer)
    assert found.shape == rows.weight.shape
    example = rows.example if examples > 1 else torch.zeros_like(rows.example)
    expected = (slow(rows) * layer[example]).flatten(1).sum(dim=1)
    torch.testing.assert_close((rows.weight * found).flatten(1).sum(dim=1), expected)
    torch.testing.assert_close(rows.dot(layer), expected)
    torch.testing.assert_close(rows.dense(SHAPE).dot(layer), expected)
    # And zero outside the map.
    ones = rows.values(torch.ones(examples, *SHAPE, dtype=torch.float64))
    outside = slow(rows.with_weight(torch.where(ones == 0, 0.0, 1.0)))
    assert ones.sum() == outside.sum()


@every_layout
def test_dense_and_values_pass_gradients(layout):
    rows, layer = windowed(layout), normal(3, *SHAPE).requires_grad_()
    weight = rows.weight.clone().requires_grad_()
    tracked = rows.with_weight(weight)
    slopes = torch.autograd.grad(tracked.dot(layer).sum(), [weight, layer])
    twins = torch.autograd.grad(tracked.dense(SHAPE).dot(layer).sum(), [weight, layer])
    for slope, twin in zip(slopes, twins, strict=True):
        # A weight outside the map stays without influence.
        torch.testing.assert_close(slope, twin)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (((1, 1), (1, 1), (0, 0)), ((3, 3), (1, 1), (1, 1))),
        (((3, 1), (1, 1), (1, 0)), ((1, 4), (1, 1), (0, 2))),
        (((2, 2), (2, 2), (0, 0)), ((4, 3), (2, 2), (1, 1))),
        (((2, 2), (2, 2), (1, 0)), ((2, 2), (2, 2), (0, 1))),
        (((2, 2), (2, 1), (0, 0)), ((3, 3), (1, 2), (1, 1))),  # strides differ: on the whole map
    ],
)
def test_sums_of_windows(first, second):
    one = windowed(first)
    other = windowed(second, seed=3)
    place = torch.minimum(one.window.place, other.window.place)  # the same neurons
    one, other = (
        LinearBounds(r.weight, r.bias, r.example, Window(place, r.window.stride, r.window.pad)) for r in (one, other)
    )
    one, other = (r.with_weight(r.weight * r.values(torch.ones(1, *SHAPE, dtype=torch.float64))) for r in (one, other))
    for a, b in ((one, other), (other, one), (one, other.dense(SHAPE)), (one.dense(SHAPE), other)):
        total = a.add(b, SHAPE)
        torch.testing.assert_close(slow(total), slow(one) + slow(other))
        torch.testing.assert_close(total.bias, one.bias + other.bias)
    kept = one.add(other, SHAPE).window
    assert (kept is not None) == (first[1] == second[1])


def test_sums_of_features():
    one, other = (
        LinearBounds(normal(4, 6, seed=s), normal(4, seed=s), torch.zeros(4, dtype=torch.long)) for s in (1, 2)
    )
    total = one.add(other, (6,))
    torch.testing.assert_close(total.weight, one.weight + other.weight)
    torch.testing.assert_close(total.bias, one.bias + other.bias)


@every_layout
def test_parts_of_rows(layout):
    rows, index = windowed(layout), torch.tensor([4, 0, 7])
    part = rows.at(index)
    assert len(part) == 3
    torch.testing.assert_close(slow(part), slow(rows)[index])
    assert torch.equal(part.bias, rows.bias[index]) and torch.equal(part.example, rows.example[index])
    torch.testing.assert_close(rows.plus(normal(9, seed=8)).bias, rows.bias + normal(9, seed=8))
    assert len(rows.at(index[:0]).dense(SHAPE)) == 0
    assert rows.at(index[:0]).values(normal(3, *SHAPE)).shape == (0, *rows.weight.shape[1:])


@pytest.mark.parametrize("layout", [((2, 2), (1, 1), (0, 0)), ((2, 2), (1, 1), (1, 1)), None])
def test_the_minimum_over_a_box_is_that_of_its_corners(layout):
    shape = (1, 3, 3)
    rows = whole(shape=shape) if layout is None else windowed(layout, shape=shape)
    region = Region.around(uniform(3, *shape, seed=4), 0.4)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64).view(-1, 1, *shape)
    corners = region.box.lower + corners * (region.box.upper - region.box.lower)
    reached = torch.einsum("pmchw,mchw->pm", corners[:, rows.example], slow(rows, shape)).amin(dim=0) + rows.bias
    torch.testing.assert_close(rows.minimum(region), reached)


@pytest.mark.parametrize("layout", [((2, 2), (1, 1), (0, 0)), ((2, 3), (1, 1), (1, 2)), None])
@pytest.mark.parametrize("eps", [0.05, 0.3, 0.8, 40.0])
def test_the_minimum_over_an_l2_ball(layout, eps, worst_case):
    """Never above the exact one over ball and [0, 1]; equal to it where only one of the two matters."""
    rows = whole() if layout is None else windowed(layout)
    x = uniform(3, *SHAPE, low=0.2, high=0.8, seed=4)
    found = rows.minimum(Region.around(x, eps, "l2"))
    weight, x_of = slow(rows), x[rows.example]
    at_centre = (weight * x_of).flatten(1).sum(dim=1) + rows.bias
    exact = at_centre - worst_case("l2", -weight, x_of, eps)
    assert (found <= exact + 1e-9).all()
    if eps == 0.05:  # within the pixels
        torch.testing.assert_close(found, at_centre - eps * weight.flatten(1).norm(dim=1))
        torch.testing.assert_close(found, exact)
    elif eps == 40.0:  # the pixels are within the ball
        torch.testing.assert_close(found, weight.flatten(1).clamp(max=0).sum(dim=1) + rows.bias)
        torch.testing.assert_close(found, exact)
    else:
        box = rows.minimum(Region(Bounds((x - eps).clamp(min=0), (x + eps).clamp(max=1))))
        ball = at_centre - eps * weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(found, torch.maximum(box, ball))


def test_the_minimum_over_a_point_is_its_value():
    rows, x = whole(), uniform(3, *SHAPE)
    for norm in ("linf", "l2"):
        torch.testing.assert_close(rows.minimum(Region.around(x, 0.0, norm)), rows.dot(x) + rows.bias)


def test_no_point_is_below_the_minimum():
    rows = whole(count=30)
    for norm in ("linf", "l2"):
        region = Region.around(uniform(3, *SHAPE, seed=2), 0.3, norm)
        where = points(region, 300)
        reached = torch.einsum("pmchw,mchw->pm", where[:, rows.example], rows.weight) + rows.bias
        assert (reached >= rows.minimum(region) - 1e-9).all()
