import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.compute import compute_bounds
from overproof.bounds.crown import bound
from overproof.bounds.logsumexp import LogSumExp
from overproof.bounds.region import Bounds, Region
from overproof.bounds.rows import LinearBounds
from overproof.bounds.spec import margins
from overproof.bounds.trace import trace


def box(scale, shape=(3, 5), dtype=torch.float64, seed=0):
    """Return bounds around drawn scores, some of them single numbers."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(2, *shape, generator=g, dtype=torch.float64) * scale
    width = torch.rand(2, *shape, generator=g, dtype=torch.float64) * scale
    width[:, 0] = 0
    return Bounds((centre - width).to(dtype), (centre + width).to(dtype))


def points(x, count=500):
    """Return scores of the box in float64, corners among them, ``[count, N, *shape]``."""
    share = torch.rand(count, *x.lower.shape, dtype=torch.float64)
    share[: count // 4] = share[: count // 4].round()
    low, high = x.lower.double(), x.upper.double()
    return low + share * (high - low)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 500.0])
@pytest.mark.parametrize("dim", [-1, -2])
def test_every_value_is_within_the_range_and_above_the_rows(dim, scale, dtype):
    x, operator = box(scale, dtype=dtype), LogSumExp(dim=dim)
    found = points(x)
    value = found.logsumexp(dim=dim, keepdim=True)
    low, high = (side.double() for side in operator.forward(x))
    tolerance = 4 * torch.finfo(dtype).eps * (1 + high.abs().max())
    assert (value >= low - tolerance).all() and (value <= high + tolerance).all()
    shape = value.shape[2:]
    weight = torch.randn(6, *shape, dtype=dtype)
    example = torch.tensor([0, 1, 0, 1, 0, 1])
    rows = LinearBounds(weight, torch.zeros(6, dtype=dtype), example)
    (propagated,) = operator.propagate_backward(rows, [x])
    exact = (weight.double() * value[:, example]).flatten(2).sum(dim=2)
    # The rows are of the precision of the weights: sums of so many products of such numbers.
    line = (propagated.weight.double() * found[:, example]).flatten(2).sum(dim=2) + propagated.bias.double()
    tolerance = 32 * torch.finfo(dtype).eps * (1 + exact.abs().max() + found.abs().max())
    assert (line <= exact + tolerance).all()


def test_below_it_touches_in_the_middle_and_above_at_the_corner():
    x, operator = box(1.0), LogSumExp(dim=-1)
    middle = (x.lower + x.upper) / 2
    up = LinearBounds(torch.ones(2, 3, 1).double(), torch.zeros(2).double(), torch.arange(2))
    (below,) = operator.propagate_backward(up, [x])
    line = (below.weight * middle).flatten(1).sum(dim=1) + below.bias
    torch.testing.assert_close(line, middle.logsumexp(dim=-1).sum(dim=1), rtol=1e-12, atol=1e-12)
    (above,) = operator.propagate_backward(up.with_weight(-up.weight), [x])
    assert not above.weight.any()
    torch.testing.assert_close(-above.bias, x.upper.logsumexp(dim=-1).sum(dim=1), rtol=1e-12, atol=1e-12)


def test_what_nothing_asks_about_may_be_infinite():
    x = Bounds(torch.full((1, 3), -torch.inf), torch.full((1, 3), torch.inf))
    rows = LinearBounds(torch.zeros(1, 1), torch.ones(1), torch.zeros(1, dtype=torch.long))
    (propagated,) = LogSumExp(dim=-1).propagate_backward(rows, [x])
    assert float(propagated.bias) == 1 and not propagated.weight.any()


class Functional(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return self.step(x)


LAST = {
    "module": nn.LogSoftmax(dim=1),
    "function": Functional(lambda x: F.log_softmax(x, dim=-1)),
    "method": Functional(lambda x: x.log_softmax(1)),
}


@pytest.mark.parametrize("how", LAST)
def test_margins_behind_a_log_softmax_are_those_of_the_logits(how):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    network = nn.Sequential(body, LAST[how]).eval().requires_grad_(False)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    region, spec = Region.around(x, 0.1), margins(body(x).argmax(dim=1), 4).double()
    graphs = [trace(one, (1, 4, 4)).graph() for one in (network, body)]
    for method in ("crown_ibp", "crown", "alpha"):
        found, expected = (bound(graph, region, spec, method).lower for graph in graphs)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_inside_a_network_it_holds_every_value(method):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LogSoftmax(dim=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    network = network.double().eval().requires_grad_(False)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    lower, upper = compute_bounds(network, x, eps=0.2, method=method)
    found = network((x + (torch.rand(500, 2, 1, 4, 4) * 2 - 1).double() * 0.2).clamp(0, 1).flatten(0, 1)).view(
        500, 2, 3
    )
    assert (found >= lower - 1e-12).all() and (found <= upper + 1e-12).all()
