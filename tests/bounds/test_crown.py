"""Bounds hold what sampling, gradients and an enumeration of ReLU patterns find; and are as tight as they must be."""

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from overproof.bounds.crown import (
    METHODS,
    BoundOptions,
    bound,
    bound_by_crown,
    final,
    intermediate,
    propagate_to_image,
    spec_rows,
)
from overproof.bounds.graph import Graph
from overproof.bounds.region import Bounds, Region
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.spec import logits, margins
from overproof.bounds.trace import trace

from .networks import (
    CLASSES,
    ROUNDING,
    affine_of,
    assert_holds,
    normal,
    points,
    random_network,
    reached,
    settled,
    uniform,
    value,
)

QUICK = ("ibp", "crown_ibp", "crown")
RADII = {"linf": 0.1, "l2": 0.5}
every_norm = pytest.mark.parametrize("norm", RADII)
every_method = pytest.mark.parametrize("method", METHODS)


def bound_options(method, steps=6, **others):
    return BoundOptions(method=method, optimizer=AlphaOptimizer(steps=steps), **others)


def case(seed, norm="linf", count=2):
    """Return a random network, its graph, a region around random images, and random rows over the logits."""
    network, shape = random_network(seed)
    region = Region.around(uniform(count, *shape, seed=seed), RADII[norm], norm)
    spec = torch.cat([logits(count, CLASSES).double(), normal(count, 2, CLASSES, seed=seed)], dim=1)
    return network, trace(network, shape).graph(), region, spec


# --- soundness --------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("seed", range(20))
def test_no_point_is_outside_the_quick_bounds(seed, norm):
    """And what is proved from intervals is never looser than the intervals of the same rows."""
    network, graph, region, spec = case(seed, norm)
    found = {method: bound(graph, region, spec, method) for method in QUICK}
    inner = reached(network, region, spec)
    for method in QUICK:
        assert_holds(found[method], inner)
        assert_holds(found["ibp"], found[method], slack=1e-12)


@every_norm
@pytest.mark.parametrize("seed", range(5))
def test_no_point_is_outside_alpha_s_bounds(seed, norm):
    network, graph, region, spec = case(seed, norm)
    found = bound(graph, region, spec, bound_options("alpha"))
    assert_holds(found, reached(network, region, spec))
    assert_holds(bound(graph, region, spec, "ibp"), found, slack=1e-12)


@every_norm
@pytest.mark.parametrize("seed", range(4))
def test_no_layer_leaves_its_bounds(seed, norm):
    """Every neuron of every layer, not only the logits; refined bounds are within the intervals."""
    _, graph, region, _ = case(seed, norm)
    interval = intermediate(graph, region, "ibp")
    where = points(region, 200)
    inner = [
        Bounds(
            layer.lower.unflatten(0, where.shape[:2]).amin(dim=0), layer.upper.unflatten(0, where.shape[:2]).amax(dim=0)
        )
        for layer in intermediate(graph, Region(Bounds(where.flatten(0, 1), where.flatten(0, 1))), "ibp")
    ]
    for method in ("ibp", "crown", "alpha"):
        layers = intermediate(graph, region, bound_options(method, steps=2))
        assert len(layers) == len(graph.nodes)
        for layer, found, outer in zip(layers, inner, interval, strict=True):
            assert_holds(layer, found)
            assert_holds(outer, layer, slack=1e-12)


@pytest.mark.parametrize("leak", [0.1, 0.5])
@every_method
def test_leaky_networks_are_bounded_whatever_the_slopes(leak, method):
    """The optimiser must not leave the slopes that a leaky ReLU allows."""
    torch.manual_seed(0)
    network = settled(
        nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.LeakyReLU(leak), nn.Linear(8, 6), nn.LeakyReLU(leak), nn.Linear(6, 3)
        )
    )
    region = Region.around(uniform(4, 1, 2, 2), 0.4)
    spec = logits(4, 3).double()
    found = bound(trace(network, (1, 2, 2)).graph(), region, spec, bound_options(method, steps=20))
    assert_holds(found, reached(network, region, spec, count=4000))


@every_method
@every_norm
def test_a_point_is_bounded_by_itself(method, norm):
    network, graph, region, spec = case(7)
    region = Region.around(region.box.centre, 0.0, norm)
    truth = torch.einsum("nsk,nk->ns", spec, network(region.box.centre))
    for side in bound(graph, region, spec, method):
        torch.testing.assert_close(side, truth, rtol=0, atol=ROUNDING)


@every_norm
@pytest.mark.parametrize("seed", range(4))
def test_single_precision_is_off_by_its_rounding_only(seed, norm):
    """What is proved in float32 holds but for 1e-5 of the largest logit, and is as wide on the whole.

    Not row by row: a slope, or the winner of a max pooling, that hangs on a tie may fall to the other side.
    """
    network, graph, region, spec = case(seed, norm)
    inner = reached(network, region, spec)
    for method in QUICK:
        double = bound(graph, region, spec, method)
        single = bound(graph.to(torch.float32), region.to(dtype=torch.float32), spec.float(), method)
        assert single.lower.dtype == single.upper.dtype == torch.float32
        assert_holds(single, inner, slack=1e-5 * max(1, double.upper.abs().max().item()))
        assert single.radius.mean().item() == pytest.approx(double.radius.mean().item(), rel=0.05)


def test_weights_that_are_not_numbers_prove_nothing():
    network, shape = random_network(2)
    next(network.parameters()).flatten()[0] = torch.nan
    graph = trace(network, shape).graph()
    for method in METHODS:
        found = bound(graph, Region.around(uniform(1, *shape), 0.1), logits(1, CLASSES), bound_options(method, steps=2))
        assert not (found.lower > -torch.inf).any() or found.lower.isnan().all()


# --- exact answers ----------------------------------------------------------------------------------------------------


def affine_network(shape):
    return settled(
        nn.Sequential(
            nn.ZeroPad2d((1, 0, 0, 1)),
            nn.Conv2d(shape[0], 3, 3, stride=2, padding=1),
            nn.BatchNorm2d(3),
            nn.AvgPool2d(2, 1),
            nn.Conv2d(3, 4, 2, padding=1, bias=False),
            nn.Flatten(),
            nn.LazyLinear(6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 3),
        ).double()
    )


@every_norm
@pytest.mark.parametrize("method", ["crown_ibp", "crown", "alpha"])
def test_linear_bounds_of_an_affine_network_are_exact(method, norm, worst_case):
    shape = (2, 5, 6)
    network = affine_network(shape)
    network(torch.zeros(2, *shape).double())
    # So small that it stays within the pixels: then an l2 ball has a closed form.
    region = Region.around(uniform(3, *shape, low=0.2, high=0.8), 0.15, norm)
    spec = normal(3, 4, 3)
    with torch.no_grad():
        matrix, offset = affine_of(network, shape)
        found = bound(trace(network, shape).graph(), region, spec, method)
    slopes = torch.einsum("nsk,ki->nsi", spec, matrix).unflatten(2, shape)
    for index in range(4):
        x, slope = region.box.centre, slopes[:, index]
        middle = (slope * x).flatten(1).sum(dim=1) + spec[:, index] @ offset
        torch.testing.assert_close(found.upper[:, index], middle + worst_case(norm, slope, x, 0.15))
        torch.testing.assert_close(found.lower[:, index], middle - worst_case(norm, -slope, x, 0.15))


def test_intervals_of_one_affine_layer_are_exact(worst_case):
    network = settled(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Linear(4, 3)))
    x, spec = uniform(3, 2, 2, 2), normal(3, 5, 3)
    with torch.no_grad():
        matrix, offset = affine_of(network, (2, 2, 2))
        found = bound(trace(network, (2, 2, 2)).graph(), Region.around(x, 0.3), spec, "ibp")
    for index in range(5):
        slope = torch.einsum("nk,ki->ni", spec[:, index], matrix).view_as(x)
        middle = (slope * x).flatten(1).sum(dim=1) + spec[:, index] @ offset
        torch.testing.assert_close(found.lower[:, index], middle - worst_case("linf", -slope, x, 0.3))


def test_intervals_of_two_layers_are_those_by_hand():
    """Margins are folded into the last layer, so they are tighter than differences of the logits' intervals."""
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    region = Region.around(uniform(2, 1, 2, 2), 0.3)
    with torch.no_grad():
        found = bound(trace(network, (1, 2, 2)).graph(), region, margins(torch.tensor([0, 2]), 3), "ibp")
        first, last = network[1], network[3]
        middle, half = first(region.box.centre.flatten(1)), region.box.radius.flatten(1) @ first.weight.abs().T
        low, high = (middle - half).relu(), (middle + half).relu()
        for n, (c, others) in enumerate(((0, (1, 2)), (2, (0, 1)))):
            for s, j in enumerate(others):
                row = last.weight[c] - last.weight[j]
                least = row.clamp(min=0) @ low[n] + row.clamp(max=0) @ high[n] + last.bias[c] - last.bias[j]
                torch.testing.assert_close(found.lower[n, s], least)


def test_crown_of_one_neuron_is_its_known_relaxation():
    """relu(x - 1/4) on [0, 1]: above by the chord 3/4 x, below by x - 1/4, for the positive side is the longer."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).double().requires_grad_(False)
    network[1].weight.fill_(1), network[1].bias.fill_(-0.25)
    network[3].weight.copy_(torch.tensor([[1.0], [-1.0]])), network[3].bias.zero_()
    graph = trace(network, (1, 1, 1)).graph()
    region = Region(Bounds(torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()))
    layers = intermediate(graph, region, "crown")
    rows = propagate_to_image(graph, {len(graph.nodes) - 1: spec_rows(logits(1, 2).double())}, layers, BoundOptions())
    torch.testing.assert_close(rows.weight.flatten(), torch.tensor([1.0, -0.75]).double())
    torch.testing.assert_close(rows.bias, torch.tensor([-0.25, 0.0]).double())
    found = bound(graph, region, logits(1, 2), "crown")
    torch.testing.assert_close(found.lower, torch.tensor([[0.0, -0.75]]).double())  # 0 by the interval
    torch.testing.assert_close(found.upper, torch.tensor([[0.75, 0.0]]).double())


# --- every pattern of ReLUs -------------------------------------------------------------------------------------------


def tiny(seed, widths=(3, 4, 4), leak=0.0):
    """Return a fully connected network on images [1, 1, inputs], large enough weights for most ReLUs to be open."""
    torch.manual_seed(seed)
    inputs, *hidden = widths
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.LeakyReLU(leak) if leak else nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(hidden[-1], 2)).double().requires_grad_(False)
    for layer in network[1::2]:
        layer.weight.mul_(2)
    return network, (1, 1, inputs)


def least_of_patterns(network, region, row, leak=0.0):
    """Return the exact minimum of ``row . logits`` over a box: one linear program for every pattern of signs."""
    lower, upper = region.box.lower.flatten(), region.box.upper.flatten()
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    best = torch.inf
    for signs in itertools.product((1.0, -1.0), repeat=sum(layer.out_features for layer in linear[:-1])):
        # With its signs given, every layer is affine in the image.
        weight, bias = torch.eye(len(lower)).double(), torch.zeros(len(lower)).double()
        needed, limits, rest = [], [], torch.tensor(signs).double()
        for layer in linear[:-1]:
            weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
            sign, rest = rest[: len(bias)], rest[len(bias) :]
            needed.append(-sign[:, None] * weight)
            limits.append(sign * bias)
            factor = torch.where(sign > 0, 1.0, torch.tensor(leak, dtype=torch.float64))
            weight, bias = factor[:, None] * weight, factor * bias
        goal = row @ linear[-1].weight @ weight
        answer = linprog(
            goal.numpy(),
            A_ub=torch.cat(needed).numpy(),
            b_ub=torch.cat(limits).numpy(),
            bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
        )
        if answer.status == 0:
            best = min(best, answer.fun + float(row @ (linear[-1].weight @ bias + linear[-1].bias)))
    return best


@pytest.mark.parametrize(
    ("seed", "widths", "leak"),
    [
        (0, (2, 5), 0.0),
        (1, (3, 5), 0.0),
        (2, (2, 3, 3), 0.0),
        (4, (2, 3, 2), 0.2),
        (5, (2, 2, 2, 2), 0.0),
    ],
)
def test_no_bound_cuts_the_exact_minimum(seed, widths, leak):
    network, shape = tiny(seed, widths, leak)
    region = Region.around(uniform(1, *shape, seed=seed), 0.4)
    graph, spec = trace(network, shape).graph(), normal(1, 2, 2, seed=seed)
    exact = [least_of_patterns(network, region, row, leak) for row in spec[0]]
    exact = torch.tensor([exact], dtype=torch.float64)
    # The enumeration itself: what sampling reaches is a little above it.
    inner = reached(network, region, spec, count=20000).lower
    assert (exact <= inner + 1e-7).all() and (inner - exact).max() < 0.3
    gaps = []
    for method in METHODS:
        lower = bound(graph, region, spec, bound_options(method, steps=40)).lower
        assert (lower <= exact + 1e-7).all()
        gaps.append((exact - lower).sum().item())
    assert gaps[0] > 0, "intervals should not be exact here"
    assert gaps[-1] <= gaps[2] + 1e-9 and gaps[2] <= gaps[0] + 1e-9


def least_of_triangles(network, layers, region, row):
    """Return the minimum of the linear program that has each ReLU's triangle: the best any slopes can prove."""
    first, last = network[1], network[3]
    low, high = (side.flatten() for side in layers)
    width, inputs = first.weight.shape
    goal = torch.cat([torch.zeros(inputs).double(), row @ last.weight])
    # Variables: the image, then the outputs h; h >= 0, h >= z, and h below the chord.
    share = high.clamp(min=0) / (high.clamp(min=0) - low.clamp(max=0))
    eye = torch.eye(width).double()
    needed = torch.cat(
        [torch.cat([first.weight, -eye], dim=1), torch.cat([-share[:, None] * first.weight, eye], dim=1)]
    )
    limits = torch.cat([-first.bias, share * (first.bias - low.clamp(max=0))])
    box = zip(region.box.lower.flatten().tolist(), region.box.upper.flatten().tolist(), strict=True)
    answer = linprog(goal.numpy(), A_ub=needed.numpy(), b_ub=limits.numpy(), bounds=[*box, *[(0, None)] * width])
    assert answer.status == 0
    return answer.fun + float(row @ last.bias)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_on_one_hidden_layer_comes_to_the_best_that_slopes_can_prove(seed):
    network, shape = tiny(seed, (3, 8))
    region = Region.around(uniform(1, *shape, seed=seed), 0.4)
    graph, spec = trace(network, shape).graph(), normal(1, 3, 2, seed=seed)
    layers = intermediate(graph, region, "crown")
    (number,) = graph.read_by
    best = [least_of_triangles(network, layers[number], region, row) for row in spec[0]]
    best = torch.tensor([best], dtype=torch.float64)
    crown, alpha = bound(graph, region, spec, "crown"), bound(graph, region, spec, bound_options("alpha", steps=200))
    assert (crown.lower <= best + 1e-7).all() and (alpha.lower <= best + 1e-7).all()
    assert (alpha.lower >= best - 2e-3 * 2 * alpha.radius).all()


# --- tightness --------------------------------------------------------------------------------------------------------


def test_each_method_is_tighter_than_the_one_before_on_the_whole():
    """No theorem on a single row, for tighter layers may pick other slopes; on many it is plain."""
    widths = dict.fromkeys(METHODS, 0.0)
    for seed in range(4):
        _, graph, region, spec = case(seed)
        widest = bound(graph, region, spec, "ibp").radius.sum()
        for method in METHODS:
            widths[method] += (bound(graph, region, spec, bound_options(method)).radius.sum() / widest).item()
    assert widths["crown_ibp"] < 0.9 * widths["ibp"]
    assert widths["crown"] < 0.99 * widths["crown_ibp"]
    assert widths["alpha"] < 0.995 * widths["crown"]


@every_norm
@pytest.mark.parametrize("seed", range(2))
def test_alpha_s_last_pass_is_never_looser_than_crown_s(seed, norm):
    """With the same layers: the optimiser starts from CROWN's slopes and keeps the best."""
    _, graph, region, spec = case(seed, norm)
    layers = intermediate(graph, region, "crown")
    crown, alpha = (final(graph, region, layers, spec, bound_options(method)) for method in ("crown", "alpha"))
    assert_holds(crown, alpha, slack=1e-12)


def test_an_l2_ball_is_bounded_better_than_the_box_around_it():
    for seed in range(4):
        _, graph, ball, spec = case(seed, "l2")
        box = Region(ball.box)
        for method in QUICK:
            assert_holds(bound(graph, box, spec, method), bound(graph, ball, spec, method))
        assert bound(graph, ball, spec, "crown").radius.mean() < 0.95 * bound(graph, box, spec, "crown").radius.mean()


def test_a_larger_region_has_wider_intervals():
    for seed in range(6):
        _, graph, region, spec = case(seed)
        wider = Region.around(region.box.centre, 0.3)
        assert_holds(bound(graph, wider, spec, "ibp"), bound(graph, region, spec, "ibp"))


# --- forms, chunks, batches -------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("seed", range(3))
def test_forms_are_below_the_rows_everywhere_and_have_the_bound_as_their_minimum(seed, norm):
    network, graph, region, spec = case(seed, norm)
    layers = intermediate(graph, region, "crown")
    rows = propagate_to_image(graph, {len(graph.nodes) - 1: spec_rows(spec)}, layers, BoundOptions())
    assert rows.window is None and rows.weight.shape == (spec.shape[0] * spec.shape[1], *graph.nodes[0].shape)
    assert rows.example.tolist() == [n for n in range(len(spec)) for _ in range(spec.shape[1])]
    where = points(region, 200)
    truth = torch.einsum("nsk,pnk->pns", spec, network(where.flatten(0, 1)).unflatten(0, where.shape[:2])).flatten(1)
    line = torch.einsum("mchw,pmchw->pm", rows.weight, where[:, rows.example]) + rows.bias
    assert (line <= truth + ROUNDING).all()
    last = len(graph.nodes) - 1
    least = bound_by_crown(graph, {last: spec_rows(spec)}, layers, region, bound_options("crown"))
    torch.testing.assert_close(rows.minimum(region), least)


@every_method
def test_chunks_do_not_change_anything(method):
    """Down to a row at a time."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)
    graph = trace(settled(nn.Sequential(*layers)), (1, 5, 5)).graph()
    region, spec = Region.around(uniform(2, 1, 5, 5), 0.3), logits(2, 3).double()
    whole = bound(graph, region, spec, bound_options(method, steps=3))
    for memory in (1, 30_000):
        parts = bound(graph, region, spec, bound_options(method, steps=3, memory=memory))
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["crown", "alpha"])
def test_no_more_rows_are_propagated_at_once_than_fit_the_memory(method, monkeypatch):
    _, graph, region, spec = case(2)
    layers, last = intermediate(graph, region, "crown"), len(graph.nodes) - 1
    # Eight copies of the largest layer in float64 per row, and thirty-two where slopes are optimised.
    row = max(math.prod(node.shape) for node in graph.nodes) * 8 * {"crown": 8, "alpha": 32}[method]
    sizes, propagate_backward = [], Graph.propagate_backward

    def counted(self, rows, *words, **options):
        sizes.append(len(next(iter(rows.values()))))
        return propagate_backward(self, rows, *words, **options)

    monkeypatch.setattr(Graph, "propagate_backward", counted)
    rows = spec_rows(spec)
    assert len(rows) >= 4
    for fitting in (1, 2, len(rows) - 1, len(rows)):
        for memory in (row * fitting, row * (fitting + 1) - 1):
            sizes.clear()
            bound_by_crown(graph, {last: rows}, layers, region, bound_options(method, steps=0, memory=memory))
            assert max(sizes) == fitting
    sizes.clear()
    bound_by_crown(graph, {last: rows}, layers, region, bound_options(method, steps=0, memory=1))
    assert max(sizes) == 1


@every_method
@every_norm
def test_examples_do_not_know_of_each_other(method, norm):
    _, graph, region, spec = case(9, norm, count=3)
    whole = bound(graph, region, spec, bound_options(method, steps=3))
    for n in range(3):
        alone = bound(graph, region.at(torch.tensor([n])), spec[[n]], bound_options(method, steps=3))
        torch.testing.assert_close(alone.lower, whole.lower[[n]], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.upper, whole.upper[[n]], rtol=0, atol=1e-9)


def test_upper_bounds_are_lower_bounds_of_the_negative():
    _, graph, region, spec = case(11)
    for method in METHODS:
        found, negative = (bound(graph, region, s, bound_options(method, steps=3)) for s in (spec, -spec))
        torch.testing.assert_close(found.upper, -negative.lower)
        torch.testing.assert_close(found.lower, -negative.upper)


def test_a_method_may_be_given_by_its_name():
    _, graph, region, spec = case(3)
    for method in QUICK:
        torch.testing.assert_close(
            bound(graph, region, spec, method), bound(graph, region, spec, BoundOptions(method=method))
        )
    torch.testing.assert_close(bound(graph, region, spec), bound(graph, region, spec, "crown"))


# --- gradients --------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
@pytest.mark.parametrize("seed", [3, 4])
def test_gradients_are_those_of_finite_differences(seed, method, norm):
    """Along random directions through all parameters at once; of a running batch too, as training needs it."""
    network, shape = random_network(seed)
    network.requires_grad_().train()
    traced, parameters = trace(network, shape), [p for p in network.parameters() if p.numel()]
    region, spec = Region.around(uniform(2, *shape), RADII[norm], norm), normal(2, 3, CLASSES, seed=seed)

    def loss():
        lower, upper = bound(traced.graph(running=True), region, spec, method)
        return (lower * normal(2, 3, seed=1) + upper * normal(2, 3, seed=2)).sum()

    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True)
    assert sum(slope is not None for slope in slopes) >= 3
    step = 1e-6
    for direction in range(3):
        ways = [normal(*p.shape, seed=100 * direction + i) for i, p in enumerate(parameters)]
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for parameter, way in zip(parameters, ways, strict=True):
                    parameter.add_(sign * step * way)
                values.append(loss().item())
        expected = (values[0] - values[1]) / (2 * step)
        found = sum((s * w).sum().item() for s, w in zip(slopes, ways, strict=True) if s is not None)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_step_along_the_gradient_tightens_a_margin():
    network, shape = random_network(6)
    network.requires_grad_()
    traced, region = trace(network, shape), Region.around(uniform(2, *shape), 0.1)
    spec = margins(torch.tensor([0, 1]), CLASSES)
    before = bound(traced.graph(), region, spec, "crown_ibp").lower.sum()
    parameters = list(network.parameters())
    slopes = torch.autograd.grad(before, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                parameter.add_(1e-5 * slope)
        assert bound(traced.graph(), region, spec, "crown_ibp").lower.sum() > before


def test_value_is_the_network_that_the_other_tests_compare_with():
    network, graph, region, _ = case(5)
    torch.testing.assert_close(value(graph, region.box.centre), network(region.box.centre), rtol=0, atol=1e-9)


def test_the_defaults_of_means():
    assert BoundOptions() == BoundOptions(method="crown", optimizer=AlphaOptimizer(), memory=2**28)
