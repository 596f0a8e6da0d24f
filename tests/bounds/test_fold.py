import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.fold import fold_graph, fold_operators
from overproof.bounds.graph import Node
from overproof.bounds.operators import Add, Conv, Linear, Reshape, Scale
from overproof.bounds.region import Bounds
from overproof.bounds.trace import trace
from overproof.models.classifier import Classifier
from overproof.signature import Signature

from .networks import ForwardOf, normal, settled, uniform, value

CHANNELS = Scale(factor=normal(3, 1, 1, seed=1), shift=normal(3, 1, 1, seed=2))
PLACES = Scale(factor=normal(3, 5, 5, seed=1), shift=normal(3, 5, 5, seed=2))
MIXED = Scale(factor=normal(3, 1, 1, seed=1), shift=normal(3, 5, 5, seed=2))
FEATURES = Scale(factor=normal(6, seed=1), shift=normal(6, seed=2))
CONV = Conv(weight=normal(3, 3, 3, 3, seed=3), bias=normal(3, 1, 1, seed=4), padding=(1, 1))
STRIDED = Conv(weight=normal(4, 3, 3, 2, seed=3), bias=normal(4, 1, 1), padding=(1, 0), stride=(2, 1), dilation=(1, 2))
GROUPS = Conv(weight=normal(3, 1, 3, 3, seed=3), bias=normal(3, 1, 1, seed=4), padding=(1, 1), groups=3)
WIDE = Linear(weight=normal(6, 6, seed=5), bias=normal(6, seed=6))
NARROW = Linear(weight=normal(2, 6, seed=7), bias=normal(2, seed=8))


def run(operator, x):
    return operator.forward(Bounds(x, x)).centre


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (CONV, CHANNELS),
        (CONV, MIXED),
        (GROUPS, CHANNELS),
        (CHANNELS, CONV),
        (MIXED, CONV),
        (CHANNELS, STRIDED),
        (WIDE, FEATURES),
        (FEATURES, NARROW),
        (WIDE, NARROW),
        (CHANNELS, CHANNELS),
        (CHANNELS, PLACES),
        (FEATURES, FEATURES),
    ],
)
def test_one_operator_does_what_two_did(first, second):
    """Also where padding is zero after a shift, so that the borders get less of it."""
    x = normal(4, *((6,) if isinstance(first, Linear) or first is FEATURES else (3, 5, 5)))
    between = run(first, x)
    both = fold_operators(first, second, tuple(between.shape[1:]))
    assert both is not None
    torch.testing.assert_close(run(both, x), run(second, between))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (CONV, CONV),
        (CONV, PLACES),
        (PLACES, CONV),
        (CHANNELS, GROUPS),
        (CONV, Reshape(shape=(75,))),
        (Reshape(shape=(75,)), WIDE),
        (None, CONV),
        (Add(), CHANNELS),
    ],
)
def test_what_has_no_single_operator_stays_two(first, second):
    assert fold_operators(first, second, (3, 5, 5)) is None


def node(operator, *inputs, place=""):
    return Node(operator, inputs, (3, 5, 5), place)


def test_only_what_nobody_else_reads_is_folded():
    chain = [node(None), node(CONV, 0, place="conv"), node(CHANNELS, 1, place="bn")]
    assert [part.place for part in fold_graph(chain, 2).nodes] == ["", "conv"]
    shared = [*chain, node(Add(), 1, 2, place="add")]
    assert [part.place for part in fold_graph(shared, 3).nodes] == ["", "conv", "bn", "add"]


def test_a_chain_is_folded_wherever_it_stands():
    graph = fold_graph([node(None), node(CONV, 0), node(CONV, 0), node(CHANNELS, 1), node(Add(), 3, 2)], 4)
    assert [part.inputs for part in graph.nodes] == [(), (0,), (0,), (1, 2)]


def test_what_the_output_does_not_read_is_left_out():
    graph = fold_graph([node(None), node(CONV, 0), node(CONV, 0, place="unread"), node(CHANNELS, 1)], 3)
    assert [part.place for part in graph.nodes] == ["", ""]


def layers(*modules):
    return settled(nn.Sequential(*modules))


CHAINS = {
    "conv, bn": (layers(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)), 3),
    "bn, conv with padding": (
        layers(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3)),
        3,
    ),
    "bn, conv, bn": (
        layers(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, 2, 1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3)),
        3,
    ),
    "bn without parameters": (
        layers(nn.Conv2d(2, 1, 2), nn.BatchNorm2d(1, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)),
        4,
    ),
    "linear, bn, linear": (
        layers(nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4), nn.Linear(4, 3)),
        2,
    ),
    "bn after an activation": (
        layers(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(12, 3)),
        5,
    ),
}


@pytest.mark.parametrize(("network", "count"), CHAINS.values(), ids=CHAINS)
def test_the_folded_graph_is_the_network_in_fewer_nodes(network, count):
    graph = trace(network, (2, 4, 4)).graph()
    x = uniform(5, 2, 4, 4)
    torch.testing.assert_close(value(graph, x), network(x), rtol=0, atol=1e-12)
    assert len(graph.nodes) - 1 == count < len(network)


def test_the_normalisation_melts_into_the_first_convolution():
    backbone = layers(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    signature = Signature(channels=2, height=4, width=4, classes=3)
    network = Classifier(backbone, signature, mean=(0.5, 0.4), std=(0.2, 0.3)).double().eval()
    graph, x = trace(network, (2, 4, 4)).graph(), uniform(5, 2, 4, 4)
    assert [type(node.operator) for node in graph.nodes[1:2]] == [Conv]
    assert len(graph.nodes) == 5
    torch.testing.assert_close(value(graph, x), network(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("between", [None, nn.Identity(), nn.Dropout()], ids=["straight", "identity", "dropout"])
def test_a_value_that_is_read_twice_is_not_folded_away(between):
    def forward(self, x):
        hidden = self.conv(x)
        scaled = self.bn(hidden if between is None else self.between(hidden))
        return self.head((F.relu(scaled) + hidden).flatten(1))

    parts = {"conv": nn.Conv2d(2, 3, 3), "bn": nn.BatchNorm2d(3), "head": nn.Linear(12, 3), "between": between}
    network = settled(ForwardOf(forward, **parts))
    graph, x = trace(network, (2, 4, 4)).graph(), uniform(5, 2, 4, 4)
    torch.testing.assert_close(value(graph, x), network(x), rtol=0, atol=1e-12)
