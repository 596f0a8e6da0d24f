import pytest
import torch

from overproof.bounds.bilinear import Bilinear
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds, Window

from .networks import ROUNDING, normal, uniform

CASES = {
    "product": (("abc", "abc", "abc"), (2, 3, 3), (2, 3, 3)),
    "channels by a vector": (("abc", "a", "abc"), (2, 3, 3), (2,)),
    "outer": (("a", "b", "ab"), (3,), (4,)),
    "matrices": (("abc", "acd", "abd"), (2, 3, 4), (2, 4, 5)),
    "queries and keys": (("abc", "adc", "abd"), (2, 3, 4), (2, 5, 4)),
    "dot": (("ab", "ab", "a"), (3, 4), (3, 4)),
}
every_case = pytest.mark.parametrize(("terms", "first", "second"), CASES.values(), ids=CASES)


def box(shape, width, seed):
    lower = normal(3, *shape, seed=seed)
    return Bounds(lower, lower + width * uniform(3, *shape, seed=seed + 1))


def inside(x, seed):
    """Return a point of each box, most of its coordinates at an end."""
    share = uniform(*x.lower.shape, low=-1, high=2, seed=seed).clamp(0, 1)
    return x.lower + share * (x.upper - x.lower)


def product(terms, a, b):
    return torch.einsum(f"Z{terms[0]},Z{terms[1]}->Z{terms[2]}", a, b)


@every_case
@pytest.mark.parametrize("width", [0.0, 0.3, 3.0])
def test_the_range_holds_every_product(terms, first, second, width):
    a, b = box(first, width, 0), box(second, width, 7)
    found = Bilinear(terms=terms).forward(a, b)
    for seed in range(50):
        z = product(terms, inside(a, seed), inside(b, seed + 100))
        assert (found.lower <= z + ROUNDING).all() and (z <= found.upper + ROUNDING).all()
    if width == 0:
        torch.testing.assert_close(found.lower, z)


@pytest.mark.parametrize("name", ["product", "channels by a vector", "outer"])
def test_the_range_of_a_single_product_is_exact(name):
    terms, first, second = CASES[name]
    a, b = box(first, 2.0, 0), box(second, 2.0, 7)
    corners = torch.stack([product(terms, x, y) for x in a for y in b])
    found = Bilinear(terms=terms).forward(a, b)
    torch.testing.assert_close(found.lower, corners.amin(dim=0))
    torch.testing.assert_close(found.upper, corners.amax(dim=0))


def test_many_images_are_taken_in_portions(monkeypatch):
    terms, first, second = CASES["matrices"]
    a, b = box(first, 1.0, 0), box(second, 1.0, 7)
    whole = Bilinear(terms=terms).forward(a, b)
    monkeypatch.setattr("overproof.bounds.bilinear._AT_ONCE", 1)
    parts = Bilinear(terms=terms).forward(a, b)
    assert torch.equal(whole.lower, parts.lower) and torch.equal(whole.upper, parts.upper)


@every_case
@pytest.mark.parametrize("width", [0.0, 0.3, 3.0])
def test_rows_are_nowhere_above(terms, first, second, width):
    a, b = box(first, width, 0), box(second, width, 7)
    shape = product(terms, a.lower, b.lower).shape[1:]
    rows = LinearBounds(normal(9, *shape, seed=3), normal(9, seed=4), torch.arange(9) % 3)
    of_a, of_b = Bilinear(terms=terms).propagate_backward(rows, [a, b])
    assert of_a.weight.shape == (9, *first) and of_b.weight.shape == (9, *second)
    for seed in range(50):
        x, y = inside(a, seed), inside(b, seed + 100)
        line, truth = of_a.dot(x) + of_a.bias + of_b.dot(y) + of_b.bias, rows.dot(product(terms, x, y)) + rows.bias
        assert (line <= truth + ROUNDING).all()
    if width == 0:
        torch.testing.assert_close(line, truth)


def test_a_plane_touches_the_product_at_a_corner_of_a_square():
    """Over [0, 1] x [0, 1] the mean of McCormick's planes below is (a + b) / 2 - 1 / 2, and above (a + b) / 2."""
    unit = Bounds(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    rows = LinearBounds(torch.tensor([[1.0], [-1.0]]).double(), torch.zeros(2).double(), torch.zeros(2).long())
    of_a, of_b = Bilinear(terms=("a", "a", "a")).propagate_backward(rows, [unit, unit])
    assert of_a.weight.flatten().tolist() == of_b.weight.flatten().tolist() == [0.5, -0.5]
    assert (of_a.bias + of_b.bias).tolist() == [-0.5, 0.0]


def test_a_limit_holds_where_the_planes_are_worse():
    """And the rows hold for every product within the limit."""
    terms, first, second = CASES["channels by a vector"]
    a, b = box(first, 4.0, 0), box(second, 4.0, 7)
    limited = Bilinear(terms=terms, limit=1.5)
    found = limited.forward(a, b)
    assert found.lower.min() == -1.5 and found.upper.max() == 1.5
    rows = LinearBounds(normal(9, *first, seed=3), normal(9, seed=4), torch.arange(9) % 3)
    of_a, of_b = limited.propagate_backward(rows, [a, b])
    plain = Bilinear(terms=terms).propagate_backward(rows, [a, b])
    assert not torch.equal(of_a.weight, plain[0].weight)
    for seed in range(200):
        x, y = inside(a, seed), inside(b, seed + 500)
        z = product(terms, x, y)
        y = (y / (z.abs().flatten(2).amax(dim=2) / 1.5).clamp(min=1)).clamp(b.lower, b.upper)
        z = product(terms, x, y)
        within = (z.abs() <= 1.5).flatten(1).all(dim=1)[rows.example]
        line, truth = of_a.dot(x) + of_a.bias + of_b.dot(y) + of_b.bias, rows.dot(z) + rows.bias
        assert (line <= truth + ROUNDING)[within].all()


def test_nothing_is_known_of_nothing_times_the_unknown():
    zero, unknown = (
        Bounds(*[torch.zeros(1, 1)] * 2),
        Bounds(torch.full((1, 1), -torch.inf), torch.full((1, 1), torch.inf)),
    )
    found = Bilinear(terms=("a", "a", "a")).forward(zero, unknown)
    assert found.lower.item() == -torch.inf and found.upper.item() == torch.inf


def test_windows_are_propagated_as_maps_are():
    terms, first, second = CASES["channels by a vector"]
    a, b = box(first, 1.0, 0), box(second, 1.0, 7)
    rows = LinearBounds(normal(2, 2, 2, 2), normal(2), torch.arange(2), Window(torch.tensor([[0, 0], [1, 1]])))
    found = Bilinear(terms=terms).propagate_backward(rows, [a, b])
    twins = Bilinear(terms=terms).propagate_backward(rows.dense(first), [a, b])
    for one, twin in zip(found, twins, strict=True):
        torch.testing.assert_close(one.weight, twin.weight)
        torch.testing.assert_close(one.bias, twin.bias)


def test_an_input_is_open_where_it_is_not_a_point():
    lower = torch.tensor([[0.0, 1.0]])
    assert Bilinear(terms=("a", "a", "a")).open(Bounds(lower, torch.tensor([[0.0, 2.0]]))).tolist() == [[False, True]]
