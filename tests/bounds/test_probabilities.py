import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overproof.bounds.probabilities import Softmax
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

from .networks import normal, uniform

WIDTHS = (0.0, 1e-6, 0.1, 1.0, 5.0, 50.0, 2000.0)
every_width = pytest.mark.parametrize("width", WIDTHS)


def box(shape, width, seed=0, kind=torch.float64):
    centre = normal(2, *shape, seed=seed) * 2
    radius = width * uniform(2, *shape, seed=seed + 1)
    return Bounds((centre - radius).to(kind), (centre + radius).to(kind))


def inside(x, seed):
    share = uniform(*x.lower.shape, low=-1, high=2, seed=seed).clamp(0, 1)
    low, high = (side.double() for side in x)
    return low + share * (high - low)


@every_width
@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_the_range_is_that_of_the_corners(width, dim):
    """The least probability is where its own score is the least and all others are the greatest."""
    x = box((2, 3, 4), width)
    found = Softmax(dim=dim).forward(x)
    low, high = (side.movedim(dim, -1) for side in x)
    for i in range(low.shape[-1]):
        least, most = high.clone(), low.clone()
        least[..., i], most[..., i] = low[..., i], high[..., i]
        torch.testing.assert_close(found.lower.movedim(dim, -1)[..., i], least.softmax(-1)[..., i])
        torch.testing.assert_close(found.upper.movedim(dim, -1)[..., i], most.softmax(-1)[..., i])


@every_width
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "dim"), [((4,), -1), ((2, 3, 4), -1), ((2, 3, 4), -2), ((1, 2, 2), -3)])
def test_rows_are_nowhere_above(width, kind, shape, dim):
    x = box(shape, width, kind=kind)
    rows = LinearBounds(normal(10, *shape, seed=5).to(kind), normal(10, seed=6).to(kind), torch.arange(10) % 2)
    (propagated,) = Softmax(dim=dim).propagate_backward(rows, [x])
    assert propagated.weight.dtype == kind
    exact, line = ((each.weight.double(), each.bias.double()) for each in (rows, propagated))
    # Rows are summed in their own precision: a few units of all their parts.
    parts = line[0].abs() * torch.maximum(x.lower.abs(), x.upper.abs())[rows.example].double()
    slack = (
        100 * torch.finfo(kind).eps * (parts.flatten(1).sum(dim=1) + line[1].abs() + exact[0].abs().flatten(1).sum(1))
    )
    for seed in range(60):
        z = inside(x, seed)
        p = z.softmax(dim)
        truth = (exact[0] * p[rows.example]).flatten(1).sum(dim=1) + exact[1]
        found = (line[0] * z[rows.example]).flatten(1).sum(dim=1) + line[1]
        assert (found <= truth + slack).all()
    if width == 0:
        torch.testing.assert_close(found, truth, rtol=0, atol=10 * float(slack.max()))  # 64 units a score are taken off


@every_width
def test_rows_are_no_worse_than_the_range_in_the_middle(width):
    x = box((5,), width)
    for sign in (1.0, -1.0):
        rows = LinearBounds(sign * torch.eye(5).double(), torch.zeros(5).double(), torch.zeros(5).long())
        (propagated,) = Softmax(dim=-1).propagate_backward(rows, [x])
        middle = propagated.weight @ x.centre[0] + propagated.bias
        range_ = Softmax(dim=-1).forward(x)
        level = range_.lower[0] if sign > 0 else -range_.upper[0]
        assert (middle >= level - 1e-11).all()


def test_two_scores_have_the_lines_of_a_sigmoid():
    """Where the other one is fixed, a probability is a sigmoid of one score, and its best lines are not far."""
    x = Bounds(torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    rows = LinearBounds(
        torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.zeros(2).double(), torch.zeros(2).long()
    )
    (propagated,) = Softmax(dim=-1).propagate_backward(rows, [x])
    z = torch.stack([torch.linspace(-1, 1, 101), torch.zeros(101)], dim=1).double()
    line = z @ propagated.weight.T + propagated.bias
    truth = torch.stack([z.softmax(1)[:, 0], -z.softmax(1)[:, 0]], dim=1)
    assert (line <= truth + 1e-12).all() and (truth - line).max() < 0.15


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=4),
    st.lists(st.floats(0, 1e3), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_no_box_is_found_on_which_rows_are_above(low, width, share, weight):
    low, width, share, weight = (
        torch.tensor(each[: len(low)], dtype=torch.float64) for each in (low, width, share, weight)
    )
    x = Bounds(low[None], (low + width)[None])
    z = torch.minimum(low + share * width, x.upper[0])
    rows = LinearBounds(weight[None], torch.zeros(1).double(), torch.zeros(1).long())
    (propagated,) = Softmax(dim=-1).propagate_backward(rows, [x])
    reach = (propagated.weight[0].abs() * (low.abs() + width)).sum() + 10
    assert propagated.weight[0] @ z + propagated.bias[0] <= weight @ z.softmax(0) + 1e-14 * reach


def test_the_planes_are_those_of_the_box_asked_for():
    softmax, first, second = Softmax(dim=-1), box((4,), 1.0), box((4,), 2.0, seed=9)
    rows = LinearBounds(normal(4, 4), normal(4), torch.arange(4) % 2)
    one = softmax.propagate_backward(rows, [first])[0]
    other = softmax.propagate_backward(rows, [second])[0]
    assert torch.equal(softmax.propagate_backward(rows, [first])[0].weight, one.weight)
    assert not torch.equal(one.weight, other.weight)


def test_gradients_are_numbers():
    low = torch.tensor([[0.0, 1.0, -400.0]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([[0.0, 2.0, 400.0]], dtype=torch.float64, requires_grad=True)
    rows = LinearBounds(normal(3, 3), normal(3), torch.zeros(3).long())
    (propagated,) = Softmax(dim=-1).propagate_backward(rows, [Bounds(low, high)])
    total = (
        propagated.weight.sum()
        + propagated.bias.sum()
        + sum(side.sum() for side in Softmax(dim=-1).forward(Bounds(low, high)))
    )
    for slope in torch.autograd.grad(total, (low, high)):
        assert torch.isfinite(slope).all()
