import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.activations import MaxPool, ReLU
from overproof.bounds.crown import bound, intermediate
from overproof.bounds.graph import Graph, Relaxation, join_graphs
from overproof.bounds.region import Region
from overproof.bounds.rows import LinearBounds
from overproof.bounds.spec import logits
from overproof.bounds.trace import trace

from .networks import CLASSES, ForwardOf, affine_of, normal, random_network, settled, uniform, value

SEEDS = range(12)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def graph_of(seed):
    network, shape = random_network(seed)
    return trace(network, shape).graph(), network, shape


@every_seed
def test_nodes_come_after_what_they_read(seed):
    graph, _, shape = graph_of(seed)
    assert graph.nodes[0].operator is None and graph.nodes[0].shape == shape
    for number, node in enumerate(graph.nodes[1:], start=1):
        assert node.inputs and max(node.inputs) < number
        assert graph.shapes(node) == [graph.nodes[i].shape for i in node.inputs]
    assert graph.classes == CLASSES == graph.nodes[-1].shape[0]


@every_seed
def test_every_node_has_the_shape_it_says(seed):
    graph, _, shape = graph_of(seed)
    layers = intermediate(graph, Region.around(uniform(2, *shape), 0.1), "ibp")
    for node, layer in zip(graph.nodes, layers, strict=True):
        assert tuple(layer.lower.shape) == tuple(layer.upper.shape) == (2, *node.shape)
        assert (layer.lower <= layer.upper + 1e-12).all()


def test_another_precision():
    graph, network, shape = graph_of(3)
    single, x = graph.to(torch.float32), uniform(3, *shape)
    found = value(single, x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), network(x), rtol=1e-4, atol=1e-4)


def test_a_node_knows_the_activations_that_read_it():
    network = settled(
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8, 2))
    )
    graph = trace(network, (1, 4, 4)).graph()
    assert {number: [type(one) for one in readers] for number, readers in graph.read_by.items()} == {
        1: [MaxPool],
        2: [ReLU],
    }


def interval_of(matrix, offset, box):
    centre, radius = (side.flatten(1) for side in (box.centre, box.radius))
    middle, half = centre @ matrix.T + offset, radius @ matrix.abs().T
    return middle - half, middle + half


CANCELLING = {
    "x and -x": lambda self, x: self.head(F.relu(x + -x).flatten(1)),
    "x and a scale of it": lambda self, x: self.head(F.relu(self.bn(x) + x).flatten(1)),
    "x and its average": lambda self, x: self.head(F.relu(x + self.average(x)).flatten(1)),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_a_straight_node_has_exact_intervals_where_paths_meet_again(name):
    modules = {"bn": nn.BatchNorm2d(2), "average": nn.AvgPool2d(3, 1, 1), "head": nn.Linear(32, 3)}
    network = settled(ForwardOf(CANCELLING[name], **modules))
    network.bn.weight.data.copy_(torch.tensor([-0.5, 0.5]))
    graph = trace(network, (2, 4, 4)).graph()
    assert_straight_nodes_are_exact(graph, (2, 4, 4))


@every_seed
def test_a_straight_node_has_exact_intervals(seed):
    graph, _, shape = graph_of(seed)
    assert 0 in graph.straight and len(graph.straight) > 1
    assert_straight_nodes_are_exact(graph, shape)


def assert_straight_nodes_are_exact(graph, shape):
    region = Region.around(uniform(2, *shape), 0.2)
    layers = intermediate(graph, region, "ibp")
    for number in sorted(graph.straight - {0}):
        part = Graph(graph.nodes[: number + 1])
        matrix, offset = affine_of(lambda x, part=part: value(part, x), shape)
        lower, upper = interval_of(matrix, offset, region.box)
        torch.testing.assert_close(layers[number].lower.flatten(1), lower, rtol=0, atol=1e-9)
        torch.testing.assert_close(layers[number].upper.flatten(1), upper, rtol=0, atol=1e-9)


@every_seed
def test_rows_of_a_neuron_are_the_neuron(seed):
    """Pulled one step, or not at all over an activation, they give its value from the layers they are over."""
    graph, _, shape = graph_of(seed)
    x = uniform(2, *shape)
    layers = [layer.centre for layer in intermediate(graph, Region.around(x, 0.0), "ibp")]
    for number, node in enumerate(graph.nodes[1:], start=1):
        places = torch.stack([(uniform(5, seed=i) * size).long() for i, size in enumerate(node.shape)], dim=1)
        index = torch.cat([torch.arange(5)[:, None] % 2, places], dim=1)
        sign = normal(5)
        parts = graph.neurons(number, index, sign)
        found = sum(rows.dense(graph.nodes[at].shape).dot(layers[at]) + rows.bias for at, rows in parts.items())
        torch.testing.assert_close(found, layers[number][tuple(index.T)] * sign)


@every_seed
def test_rows_stop_at_activations_without_loss(seed):
    graph, network, shape = graph_of(seed)
    x = uniform(3, *shape)
    layers = [layer.centre for layer in intermediate(graph, Region.around(x, 0.0), "ibp")]
    rows = LinearBounds(normal(6, CLASSES), normal(6, seed=1), torch.arange(6) % 3)
    arrived = graph.propagate_backward({len(graph.nodes) - 1: rows}, [], stop=True)
    assert all(at == 0 or isinstance(graph.nodes[at].operator, ReLU | MaxPool) for at in arrived)
    found = sum(part.dot(layers[at]) + part.bias for at, part in arrived.items())
    torch.testing.assert_close(found, rows.dot(network(x)) + rows.bias)


def test_slopes_that_are_missing_are_set_to_crown_s_and_used_when_given():
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    graph = trace(network, (1, 2, 2)).graph()
    region = Region.around(uniform(2, 1, 2, 2), 0.5)
    layers = intermediate(graph, region, "crown")
    rows = LinearBounds(normal(4, 2), torch.zeros(4).double(), torch.arange(4) % 2)
    free, last = Relaxation(), len(graph.nodes) - 1
    plain, chosen = (
        graph.propagate_backward({last: rows}, layers)[0],
        graph.propagate_backward({last: rows}, layers, free=free)[0],
    )
    torch.testing.assert_close(plain.weight, chosen.weight)
    (number,) = free.slopes
    assert isinstance(graph.nodes[number].operator, ReLU)
    torch.testing.assert_close(free.met[number], rows.weight @ network[3].weight)
    free.slopes[number] = 1 - free.slopes[number]
    other = graph.propagate_backward({last: rows}, layers, free=free)[0]
    assert not torch.allclose(other.weight, plain.weight)


def test_a_price_lowers_a_row_where_the_sign_is_the_known_one():
    """So the bound holds there whatever the beta; elsewhere the row is raised, which is what a bound gains."""
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    graph = trace(network, (1, 2, 2)).graph()
    region = Region.around(uniform(1, 1, 2, 2), 0.5)
    layers = intermediate(graph, region, "crown")
    relu = next(n for n, node in enumerate(graph.nodes) if isinstance(node.operator, ReLU))
    last, rows = len(graph.nodes) - 1, LinearBounds(normal(4, 2), torch.zeros(4).double(), torch.zeros(4).long())
    x = region.box.lower + uniform(5000, 1, 2, 2) * (region.box.upper - region.box.lower)
    with torch.no_grad():
        hidden, truth = network[:2](x), network(x) @ rows.weight.T
    open_ = int((hidden.amin(dim=0) * hidden.amax(dim=0)).argmin())  # the one that is open the widest
    plain = rows_at(graph.propagate_backward({last: rows}, layers)[0], x)
    for sign in (1.0, -1.0):
        signs = torch.zeros(1, 3).double()
        signs[0, open_] = sign
        allowed = hidden[:, open_] * sign > 0
        assert allowed.any() and not allowed.all()
        free = Relaxation(signs={relu: signs}, betas={relu: uniform(4, 3, low=0.5, high=2)})
        lowered = rows_at(graph.propagate_backward({last: rows}, layers, free=free)[0], x)
        assert (lowered[allowed] <= truth[allowed] + 1e-9).all()
        assert (lowered[allowed] < plain[allowed]).all()
        assert (lowered[~allowed] >= plain[~allowed]).all()
        unlowered = Relaxation(signs={relu: signs})
        torch.testing.assert_close(rows_at(graph.propagate_backward({last: rows}, layers, free=unlowered)[0], x), plain)
        assert unlowered.betas[relu].shape == (4, 3) and not unlowered.betas[relu].any()


def rows_at(rows, x):
    """Return the values of rows over the image at every point, ``[P, M]``."""
    return x.flatten(1) @ rows.weight.flatten(1).T + rows.bias


def test_which_of_two_activations_reads_a_layer_last_makes_no_difference():
    """Max pooling wants better bounds of every value, a ReLU only where the sign is open."""

    def forward(self, x):
        hidden = self.second(F.relu(self.first(x)))
        if self.pool_first:
            pooled = self.pool(hidden)
            return self.pool_head(pooled.flatten(1)) + self.relu_head(F.relu(hidden).flatten(1))
        kept = F.relu(hidden)
        return self.pool_head(self.pool(hidden).flatten(1)) + self.relu_head(kept.flatten(1))

    modules = {"first": nn.Conv2d(1, 3, 2), "second": nn.Conv2d(3, 3, 2), "pool": nn.MaxPool2d(2, 1)}
    network = settled(ForwardOf(forward, **modules, relu_head=nn.Linear(27, 3), pool_head=nn.Linear(12, 3)))
    region, found = Region.around(uniform(2, 1, 5, 5), 0.3), []
    for network.pool_first in (True, False):
        graph = trace(network, (1, 5, 5)).graph()
        found.append(bound(graph, region, logits(2, 3), "crown"))
    torch.testing.assert_close(found[0].lower, found[1].lower)
    torch.testing.assert_close(found[0].upper, found[1].upper)


def test_two_networks_on_one_image_are_one_graph():
    first, shape = random_network(3)
    second = settled(nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 4), nn.ReLU(), nn.Linear(4, 2)))
    graphs = [trace(network, shape).graph() for network in (first, second)]
    both, x = join_graphs(*graphs), uniform(3, *shape)
    torch.testing.assert_close(value(both, x), torch.cat([first(x), second(x)], dim=1))
    assert both.classes == CLASSES + 2
    region = Region.around(x, 0.1)
    found = bound(both, region, logits(3, both.classes), "crown")
    alone = [bound(graph, region, logits(3, graph.classes), "crown") for graph in graphs]
    torch.testing.assert_close(found.lower, torch.cat([each.lower for each in alone], dim=1))
    torch.testing.assert_close(found.upper, torch.cat([each.upper for each in alone], dim=1))
