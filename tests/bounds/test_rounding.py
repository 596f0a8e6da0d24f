"""What rounding may do is never less than what it does, and is what the operation counts say."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from overproof.bounds.crown import BoundOptions, final, intermediate
from overproof.bounds.graph import Graph
from overproof.bounds.operators import Operator
from overproof.bounds.region import Bounds, Region
from overproof.bounds.rounding import _EACH, _OWN, Rounding, largest_inputs
from overproof.bounds.trace import trace

from .networks import CLASSES, normal, random_network

U = torch.finfo(torch.float32).eps / 2


def linear(*sizes):
    torch.manual_seed(0)
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def test_a_linear_layer_by_hand():
    """Each output is a sum of products; on the way stand the image's 4 numbers, flattened, and the layer's sums."""
    network = linear(4, 3)
    graph = trace(network, (1, 2, 2)).graph()
    most = torch.tensor([[[[0.5, 1.0], [2.0, 0.25]]]])
    wrong = Rounding.whole(graph, most, intermediate(graph, Region(Bounds(-most, most)), "ibp")).of[-1]
    magnitude = most.flatten() @ network[1].weight.abs().T + network[1].bias.abs()
    count = (4 + _EACH) + (4 + _EACH) + (max(4, 3) + 4 + _EACH)
    torch.testing.assert_close(wrong[0], _OWN * count * U / (1 - count * U) * magnitude)


def test_a_relu_passes_what_can_be_positive_and_its_chord():
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3, 1)).requires_grad_(False)
    graph = trace(network, (1, 1, 3)).graph()
    box = Bounds(torch.tensor([[[[-2.0, -2.0, 0.5]]]]), torch.tensor([[[[-1.0, 3.0, 1.0]]]]))
    rounding = Rounding.whole(graph, largest_inputs(Region(box)), intermediate(graph, Region(box), "ibp"))
    gamma = rounding.beta_error(0).flatten()[1] / 3.0
    relu = next(number for number, node in enumerate(graph.nodes) if type(node.operator).__name__ == "ReLU")
    # Nothing; the input and the lower of its sides' magnitudes; the input alone.
    torch.testing.assert_close(rounding.beta_error(relu).flatten() / gamma, torch.tensor([0.0, 5.0, 1.0]))


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("seed", range(12))
def test_single_precision_is_never_further_off(seed, method):
    """Against the same bounds in float64; residual networks with max poolings, strides and groups."""
    network, shape = random_network(seed)
    graph, spec = trace(network, shape).graph(), normal(1, 3, CLASSES, seed=seed).expand(2, -1, -1)
    around = Region.around(torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)), 0.05)
    region, layers = around.to(dtype=torch.float64), intermediate(graph, around.to(dtype=torch.float64), "ibp")
    double = final(graph, region, layers, spec, BoundOptions(method=method)).lower
    single_layers = [Bounds(*(side.float() for side in layer)) for layer in layers]
    single = final(graph.to(torch.float32), around, single_layers, spec.float(), BoundOptions(method=method)).lower
    wrong = Rounding.whole(graph.to(torch.float32), largest_inputs(around), single_layers).of[-1]
    # The rows are sums of logits.
    assert ((single.double() - double).abs() <= spec[0].abs().float() @ wrong[0]).all()


def test_widened_layers_hold_those_of_no_rounding_and_the_error_grows_with_depth():
    network = linear(4, 8, 8, 3)
    graph = trace(network, (1, 2, 2)).graph()
    region = Region.around(torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)), 0.1)
    plain, wide = (intermediate(graph, region, BoundOptions(rounding=rounding)) for rounding in (False, True))
    for number, (narrow, wider) in enumerate(zip(plain, wide, strict=True)):
        assert (wider.lower <= narrow.lower).all() and (wider.upper >= narrow.upper).all()
        assert number == 0 or bool((wider.upper > narrow.upper).any())
    errors = [float(each.max()) for each in Rounding.whole(graph, largest_inputs(region), plain).of]
    assert errors[0] == 0 and errors[-1] > 1e-7


def test_what_is_not_covered_is_not_known():
    class Strange(Operator):
        def forward(self, *inputs):
            return inputs[0]

    graph = trace(linear(4, 3), (1, 2, 2)).graph()
    strange = Graph((*graph.nodes[:-1], replace(graph.nodes[-1], operator=Strange())))
    layers = intermediate(graph, Region.around(torch.rand(1, 1, 2, 2), 0.1), "ibp")
    assert Rounding.whole(strange, torch.ones(1, 1, 2, 2), layers).of[-1] is None
