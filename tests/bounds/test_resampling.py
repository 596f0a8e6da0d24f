"""Steps on maps as a chain of operators: what torch computes, and sound wherever its input is sampled."""

import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.composed import Draft
from overproof.bounds.graph import Graph
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.region import Bounds
from overproof.bounds.resampling import add_resize, add_transposed_conv, average1d, conv1d, for_parts, leaky

from .networks import normal

SHAPE = (2, 4, 6)
X = normal(5, *SHAPE)


def drafted(add, shape=SHAPE):
    draft = Draft()
    draft.put(None, (), shape)
    add(draft)
    return Graph(tuple(draft.nodes))


def carried(graph, bounds):
    layers = [bounds]
    for node in graph.nodes[1:]:
        layers.append(graph.forward(node, layers))
        assert layers[-1].lower.shape[1:] == node.shape
    return layers[-1]


def assert_same(graph, function, x=X):
    """At points the same, and around them nothing outside."""
    torch.testing.assert_close(carried(graph, Bounds(x, x)).centre, function(x))
    bounds = carried(graph, Bounds(x - 0.1, x + 0.2))
    for seed in range(20):
        inside = function(x - 0.1 + 0.3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).double())
        assert (inside >= bounds.lower - 1e-12).all() and (inside <= bounds.upper + 1e-12).all()


SIZES = (
    {"size": (7, 3), "mode": "bilinear"},
    {"size": (8, 12), "mode": "bilinear", "align_corners": True},
    {"scale_factor": 0.7, "mode": "bilinear"},
    {"scale_factor": (2.0, 1.5), "mode": "bilinear", "recompute_scale_factor": True},
    {"scale_factor": 0.5, "mode": "bilinear", "antialias": True},
    {"size": (3, 9), "mode": "bicubic"},
    {"size": (2, 3), "mode": "area"},
)


@pytest.mark.parametrize("options", SIZES, ids=str)
def test_other_sizes(options):
    graph = drafted(lambda draft: add_resize(draft, 0, X, **options))
    assert_same(graph, lambda x: F.interpolate(x, **options))


def test_bilinear_intervals_lose_nothing():
    """Its weights are not negative: the ends of the interval are reached."""
    options = {"size": (7, 3), "mode": "bilinear"}
    bounds = carried(drafted(lambda draft: add_resize(draft, 0, X, **options)), Bounds(X - 1, X + 1))
    torch.testing.assert_close(bounds.lower, F.interpolate(X - 1, **options))
    torch.testing.assert_close(bounds.upper, F.interpolate(X + 1, **options))


TRANSPOSED = (
    ({}, (2, 3, 3, 2)),
    ({"stride": 2, "padding": 1}, (2, 3, 3, 3)),
    ({"stride": (2, 3), "output_padding": (1, 2), "bias": normal(3)}, (2, 3, 2, 4)),
    ({"stride": 2, "dilation": 2, "padding": (1, 0)}, (2, 3, 3, 3)),
    ({"groups": 2, "stride": 2}, (2, 3, 2, 2)),
    ({"padding": 2, "stride": 3}, (2, 1, 2, 2)),
)


@pytest.mark.parametrize(("options", "size"), TRANSPOSED, ids=str)
def test_transposed_convolutions(options, size):
    weight = normal(*size, seed=1)
    after = tuple(F.conv_transpose2d(X, weight, **options).shape[1:])
    graph = drafted(lambda draft: add_transposed_conv(draft, 0, after, weight=weight, **options))
    assert_same(graph, lambda x: F.conv_transpose2d(x, weight, **options))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 2, "dilation": 2}, {"padding": "same"}], ids=str)
def test_convolutions_of_lines(options):
    weight, bias, x = normal(3, 2, 3, seed=1), normal(3), normal(5, 2, 1, 8)
    after = F.conv1d(x[:, :, 0], weight, bias, **options).shape[1:]
    operator = conv1d(weight=weight, bias=bias, **options)
    graph = drafted(lambda draft: draft.put(operator, [0], (after[0], 1, after[1])), (2, 1, 8))
    assert_same(graph, lambda x: F.conv1d(x[:, :, 0], weight, bias, **options)[:, :, None], x)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True},
        {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        {"stride": (1,), "padding": (1,), "ceil_mode": False, "count_include_pad": True},
    ],
    ids=str,
)
def test_averages_of_lines(options):
    x = normal(5, 2, 1, 8)

    def function(x):
        return F.avg_pool1d(x[:, :, 0], 3, **options)[:, :, None]

    after = tuple(function(x).shape[1:])

    def add(draft):
        at = 0
        for operator in average1d((2, 1, 8), after, x, kernel_size=3, **options):
            shape = operator.around(draft.shape(at)) if hasattr(operator, "around") else after
            at = draft.put(operator, [at], shape)

    assert_same(drafted(add, (2, 1, 8)), function, x)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.25, 1.5])
def test_a_leak_of_any_slope(slope):
    weight = torch.tensor([slope], dtype=torch.float64)
    graph = drafted(lambda draft: leaky(draft, 0, weight, X))
    assert_same(graph, lambda x: F.prelu(x, weight))


def test_a_layer_for_parts_does_to_each_what_it_does_to_one():
    weight, bias = normal(4, 1, 3, 3), normal(4)
    given = for_parts("conv2d", {"weight": weight, "bias": bias, "groups": 2}, 3)
    parts = normal(5, 3, 2, 6, 6)
    found = F.conv2d(parts.flatten(1, 2), given["weight"], given["bias"], groups=given["groups"])
    truth = F.conv2d(parts.flatten(0, 1), weight, bias, groups=2)
    torch.testing.assert_close(found.view(5, 3, 4, 4, 4).flatten(0, 1), truth)
    assert for_parts("max_pool2d", {"kernel_size": 2}, 3) == {"kernel_size": 2}
    with pytest.raises(NoBoundsError):
        for_parts("conv_transpose2d", {"weight": weight}, 3)


def test_what_has_no_bounds_is_told():
    with pytest.raises(NoBoundsError, match="nearest"):
        drafted(lambda draft: add_resize(draft, 0, X, mode="nearest"))
    with pytest.raises(NoBoundsError, match="lines"):
        conv1d(weight=normal(2, 2))
    with pytest.raises(NoBoundsError, match="other than maps"):
        drafted(lambda draft: add_transposed_conv(draft, 0, SHAPE, weight=normal(2, 2, 3)))
