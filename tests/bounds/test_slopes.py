import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from overproof.bounds import slopes
from overproof.bounds.crown import BoundOptions, bound_by_crown, intermediate, spec_rows
from overproof.bounds.graph import Graph, Relaxation
from overproof.bounds.region import Bounds, Region
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.spec import logits
from overproof.bounds.trace import trace

from .networks import CLASSES, ROUNDING, assert_holds, reached, uniform


class Hills:
    """Two rows whose bounds are highest where one choice of each has a given value; and what was asked."""

    def __init__(self, tops=(0.3, 0.9), start=0.0, kind="slopes"):
        self.tops, self.start, self.kind, self.asked = torch.tensor(tops), start, kind, []

    def __call__(self, free):
        choice = getattr(free, self.kind).setdefault(7, torch.full((2,), self.start))
        self.asked.append(choice.detach().clone())
        return -((choice - self.tops) ** 2)


def test_every_row_maximises_its_own_objective():
    hills = Hills()
    found = AlphaOptimizer(steps=60, rate=0.1).best(hills, Relaxation())
    assert not found.requires_grad
    assert (found > -1e-3).all()
    assert len(hills.asked) == 60 + 2  # before the first step and after the last


def test_the_best_of_every_row_counts_wherever_the_ascent_ends():
    hills = Hills(start=0.3)  # at the top of the first hill
    found = AlphaOptimizer(steps=5, rate=0.5).best(hills, Relaxation())
    values = torch.stack([-((slope - hills.tops) ** 2) for slope in hills.asked])
    assert values[:, 1].argmax() not in (0, len(values) - 1), "the second hill was stepped over"
    torch.testing.assert_close(found, values.amax(dim=0), rtol=0, atol=0)


def test_slopes_stay_between_zero_and_one():
    hills = Hills(tops=(2.0, -1.0), start=0.5)
    found = AlphaOptimizer(steps=20).best(hills, Relaxation())
    asked = torch.stack(hills.asked)
    assert asked.min() == 0 and asked.max() == 1
    torch.testing.assert_close(found, torch.tensor([-1.0, -1.0]))


def test_betas_are_never_negative_and_have_no_upper_end():
    hills = Hills(tops=(2.0, -1.0), kind="betas")
    found = AlphaOptimizer(steps=60).best(hills, Relaxation())
    asked = torch.stack(hills.asked)
    assert asked.min() == 0 and asked.max() > 1.5
    assert found[0] > -0.05 and found[1] == -1


def test_the_last_choice_is_left_behind():
    free, hills = Relaxation(), Hills()
    AlphaOptimizer(steps=7).best(hills, free)
    assert torch.equal(free.slopes[7], hills.asked[-1])
    assert not free.slopes[7].requires_grad


def test_a_choice_that_no_row_depends_on_stays():
    free = Relaxation(slopes={3: torch.full((2,), 0.25)})
    AlphaOptimizer(steps=5).best(Hills(), free)
    assert free.slopes[3].tolist() == [0.25, 0.25]


def test_nothing_of_the_network_is_kept():
    # Bounds of a network that learns carry a graph; the best of them is a number.
    height = torch.zeros(2, requires_grad=True)
    hills = Hills()
    for steps in (0, 3):
        assert not AlphaOptimizer(steps=steps).best(lambda free: hills(free) + height, Relaxation()).requires_grad


def test_the_time_is_counted_from_the_start(monkeypatch):
    looks = itertools.count(1000)  # a second passes at every look
    monkeypatch.setattr(slopes, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    hills = Hills()
    AlphaOptimizer(steps=100, seconds=5.5).best(hills, Relaxation())
    assert len(hills.asked) == 4 + 2  # the fifth step would end after six seconds


def test_with_time_enough_all_steps_are_taken():
    hills, hurried = Hills(), Hills()
    assert torch.equal(
        AlphaOptimizer(steps=9).best(hills, Relaxation()),
        AlphaOptimizer(steps=9, seconds=1e6).best(hurried, Relaxation()),
    )
    assert len(hills.asked) == len(hurried.asked) == 9 + 2


def test_no_time_is_no_step():
    hills = Hills()
    found = AlphaOptimizer(steps=1000, seconds=0).best(hills, Relaxation())
    assert len(hills.asked) <= 2
    torch.testing.assert_close(found, -(hills.tops**2))


def test_no_steps_is_the_start():
    hills = Hills()
    torch.testing.assert_close(AlphaOptimizer(steps=0).best(hills, Relaxation()), -(hills.tops**2))


def test_a_graph_without_activations_has_nothing_to_maximise():
    asked = []

    def least(free):
        asked.append(free)
        return torch.tensor([1.0, -2.0])

    assert AlphaOptimizer(steps=50).best(least, Relaxation()).tolist() == [1.0, -2.0]
    assert len(asked) <= 2


def test_nothing_known_is_nothing_proved():
    """A bound that is not a number never becomes one."""
    unknown = torch.tensor([torch.nan, 1.0])
    found = AlphaOptimizer(steps=3).best(lambda free: free.slopes.setdefault(0, torch.zeros(2)) + unknown, Relaxation())
    assert found[0].isnan() and found[1] >= 1


def test_it_maximises_where_gradients_are_switched_off():
    with torch.no_grad():
        assert (AlphaOptimizer(steps=60, rate=0.1).best(Hills(), Relaxation()) > -1e-3).all()


def test_the_defaults():
    assert AlphaOptimizer() == AlphaOptimizer(steps=20, rate=0.25, decay=0.98, seconds=None)


# --- both choices of slopes -------------------------------------------------------------------------------------------


def sparse(seed, depth, share):
    """Return a chain of linear layers, a ``share`` of whose weights is not zero: narrow intervals, as of IBP training.

    Positive weights are twice as many as negative ones.
    """
    torch.manual_seed(seed)
    parts = [nn.Flatten()]
    for width, following in itertools.pairwise((16, *[24] * depth, CLASSES)):
        linear = nn.Linear(width, following)
        size = linear.weight.shape
        up, down = (torch.randn(size).abs() * (torch.rand(size) < part) for part in (share, share / 2))
        linear.weight.data = 2 * (up - down) / width**0.5
        linear.bias.data = torch.randn(following) / 2 - 0.2
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).double().requires_grad_(False)


def plain_least(network, region, spec):
    """Return lower bounds of ``spec . logits`` by CROWN as its paper has it, ``[S]``, for one example's box.

    By dense matrices; a layer's bounds are those of its rows alone wherever intervals leave the sign open.
    """
    linears = [module for module in network if isinstance(module, nn.Linear)]
    layers = []

    def split(matrix):
        return matrix.clamp(min=0), matrix.clamp(max=0)

    def carried(weight, bias):
        for linear, (lower, upper) in zip(reversed(linears[: len(layers)]), reversed(layers), strict=True):
            least, most = lower.clamp(max=0), upper.clamp(min=0)
            chord = most / (most - least)
            slope = torch.where((lower < 0) & (upper > 0), (upper > -lower).to(chord), chord)
            below, above = split(weight)
            weight, bias = below * slope + above * chord, bias - above @ (chord * least)
            weight, bias = weight @ linear.weight, bias + weight @ linear.bias
        below, above = split(weight)
        return below @ region.box.lower.flatten() + above @ region.box.upper.flatten() + bias

    low, high = (side.flatten() for side in region.box)
    for linear in linears[:-1]:
        below, above = split(linear.weight)
        lower, upper = below @ low + above @ high + linear.bias, below @ high + above @ low + linear.bias
        wanted = (lower < 0) & (upper > 0)
        rows = carried(linear.weight, linear.bias), -carried(-linear.weight, -linear.bias)
        layers.append((torch.where(wanted, rows[0], lower), torch.where(wanted, rows[1], upper)))
        low, high = (side.clamp(min=0) for side in layers[-1])
    return carried(spec @ linears[-1].weight, spec @ linears[-1].bias)


def by_both(seed, depth, share, eps, count=4):
    """Return lower bounds of every side of every logit: by the layers' choice alone, by both, and by plain CROWN."""
    network = sparse(seed, depth, share)
    graph, region = trace(network, (1, 4, 4)).graph(), Region.around(uniform(count, 1, 4, 4, seed=seed + 99), eps)
    spec = torch.cat([logits(count, CLASSES), -logits(count, CLASSES)], dim=1).double()
    layers, rows = intermediate(graph, region), {len(graph.nodes) - 1: spec_rows(spec)}
    one, both = (
        bound_by_crown(graph, rows, each, region, BoundOptions()).view(count, -1) for each in (list(layers), layers)
    )
    plain = torch.stack([plain_least(network, region.at(slice(i, i + 1)), spec[i]) for i in range(count)])
    assert_holds(Bounds(both, torch.full_like(both, torch.inf)), reached(network, region, spec))
    return one, both, plain


@pytest.mark.parametrize("eps", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_no_row_over_two_hidden_layers_is_looser_than_by_plain_crown(share, eps):
    """Whose layers are wider, so that it chooses other slopes."""
    for seed in range(8):
        _, both, plain = by_both(seed, 2, share, eps)
        assert (both > plain - ROUNDING).all()


def test_the_choice_of_the_layers_alone_is_looser_for_some_rows():
    """Else the test above could not fail; and what is added never loosens a row."""
    loose, left, deep = 0, 0, 0
    for seed in range(8):
        for depth in (2, 4):
            one, both, plain = by_both(seed, depth, 0.2, 0.2)
            assert (both >= one).all()
            loose += int((one < plain - ROUNDING).sum())
            left += int((both < plain - ROUNDING).sum())
            deep += depth > 2 and bool((both > one + ROUNDING).any())
    assert 2 * left < loose
    assert deep  # with more layers as well


def test_examples_whose_choices_agree_are_propagated_once(monkeypatch):
    """The second pass has the rows of the others only."""
    network = sparse(0, 2, 0.2)
    graph, region = trace(network, (1, 4, 4)).graph(), Region.around(uniform(12, 1, 4, 4, seed=99), 0.2)
    layers, counts, propagate_backward = intermediate(graph, region), [], Graph.propagate_backward
    differing = int(layers.differing().sum())
    assert 0 < differing < 12

    def counted(self, rows, *words, **options):
        counts.append(len(next(iter(rows.values()))))
        return propagate_backward(self, rows, *words, **options)

    monkeypatch.setattr(Graph, "propagate_backward", counted)
    bound_by_crown(
        graph, {len(graph.nodes) - 1: spec_rows(logits(12, CLASSES).double())}, layers, region, BoundOptions()
    )
    assert counts == [12 * CLASSES, differing * CLASSES]
