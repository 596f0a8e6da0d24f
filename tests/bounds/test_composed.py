"""Each step of several operators is what torch's function is, at points; what holds over boxes is theirs."""

import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.composed import Draft
from overproof.bounds.crown import intermediate
from overproof.bounds.graph import Graph
from overproof.bounds.region import Bounds, Region

from .networks import normal, value

LIKE = torch.zeros(1, dtype=torch.float64)


def made(shape, step):
    """Return the graph of a step over an image of this shape."""
    draft = Draft()
    step(draft, draft.put(None, (), shape))
    return Graph(tuple(draft.nodes))


STEPS = {
    "another shape": ((2, 6), lambda d, x: d.reshaped(x, (3, 4)), lambda x: x.view(-1, 3, 4)),
    "gathered": (
        (5,),
        lambda d, x: d.gathered(x, torch.tensor([[4, 0], [-1, 4]])),
        lambda x: F.pad(x, (0, 1))[:, [[4, 0], [5, 4]]],
    ),
    "clipped": ((20,), lambda d, x: d.clipped(x, -0.5, 0.7, LIKE), lambda x: x.clamp(-0.5, 0.7)),
    "clipped below": ((20,), lambda d, x: d.clipped(x, -0.5, torch.inf, LIKE), lambda x: x.clamp(min=-0.5)),
    "clipped above": ((20,), lambda d, x: d.clipped(x, -torch.inf, 0.5, LIKE), lambda x: x.clamp(max=0.5)),
    "linear on tokens": (
        (3, 4),
        lambda d, x: d.linear(x, normal(5, 4, seed=7), normal(5, seed=8)),
        lambda x: F.linear(x, normal(5, 4, seed=7), normal(5, seed=8)),
    ),
    "summed": ((2, 3, 4), lambda d, x: d.summed(x, [0, 2], LIKE + 2), lambda x: 2 * x.sum((1, 3))),
    "summed over all": ((2, 3), lambda d, x: d.summed(x, [0, 1], LIKE + 1), lambda x: x.sum((1, 2))[:, None]),
    "normalised": ((3, 4), lambda d, x: d.normalised(x, 3, 1e-5, LIKE), lambda x: F.layer_norm(x, (4,))),
    "normalised in one": (
        (3, 4),
        lambda d, x: d.normalised(x, 1, 0.1, LIKE),
        lambda x: F.layer_norm(x, (3, 4), eps=0.1),
    ),
    "normalised, not centred": (
        (3, 4),
        lambda d, x: d.normalised(x, 3, 1e-5, LIKE, centred=False),
        lambda x: F.rms_norm(x, (4,), eps=1e-5),
    ),
    "heads": ((3, 8), lambda d, x: d.heads(x, 2, LIKE), lambda x: x.view(-1, 3, 2, 4).transpose(1, 2)),
    "heads beside each other": ((2, 3, 4), lambda d, x: d.beside(x, LIKE), lambda x: x.transpose(1, 2).flatten(2)),
    "attention": (
        (2, 3, 4),
        lambda d, x: d.attention(x, d.scaled(x, LIKE + 2, LIKE), d.scaled(x, LIKE - 1, LIKE), 0.5, LIKE),
        lambda x: F.scaled_dot_product_attention(x, 2 * x, -x, scale=0.5),
    ),
}


@pytest.mark.parametrize(("shape", "step", "function"), STEPS.values(), ids=STEPS)
def test_a_step_is_torch_s(shape, step, function):
    graph, x = made(shape, step), normal(3, *shape)
    torch.testing.assert_close(value(graph, x), function(x), rtol=1e-9, atol=1e-9)
    assert graph.nodes[-1].shape == tuple(function(x).shape[1:])


def test_a_layer_in_its_own_shape_needs_no_node():
    assert len(made((2, 3), lambda d, x: d.reshaped(x, (2, 3))).nodes) == 1


def test_a_normalised_layer_stays_within_its_limit():
    """However wide the box: no value is further from the mean than sqrt(n - 1) standard deviations."""
    graph = made((2, 5), lambda d, x: d.normalised(x, 2, 1e-6, LIKE))
    x = normal(3, 2, 5)
    last = intermediate(graph, Region(Bounds(x - 10, x + 10)), "ibp")[-1]
    torch.testing.assert_close(last.upper, torch.full_like(last.upper, 2.0))
    torch.testing.assert_close(last.lower, torch.full_like(last.lower, -2.0))
