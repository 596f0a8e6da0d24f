import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from overproof.bounds.recording import CannotRunError, trace_values

from .networks import ForwardOf, uniform

IMAGE = uniform(2, 2, 4, 4)


def test_every_step_s_value_is_the_network_s():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double().eval()
    graph_module, values = trace_values(network, IMAGE)
    output = list(graph_module.graph.nodes)[-1]
    (logits,) = output.args
    assert torch.equal(values[logits], network(IMAGE))


def test_a_value_is_as_it_was_before_it_is_changed_in_place():
    graph_module, values = trace_values(ForwardOf(lambda _, x: (x - 0.5).relu_()), IMAGE)
    before = next(node for node in graph_module.graph.nodes if node.name == "sub")
    assert values[before].min() < 0


def test_shapes_are_known_on_the_way():
    def forward(self, x):
        if x.shape[-1] < 5 and x.dim() == 4 and x.dtype == torch.float64 and x.size(1) == 2:
            x = F.pad(x, (0, 5 - x.shape[-1]))
        return x.flatten(1)

    graph_module, _ = trace_values(ForwardOf(forward), IMAGE)
    assert any(node.name == "pad" for node in graph_module.graph.nodes)


@pytest.mark.parametrize("question", [lambda x: x.sum() > 0, lambda x: x.mean().item() > 0, lambda x: bool(x.any())])
def test_what_an_image_shows_decides_nothing(question):
    with pytest.raises((fx.proxy.TraceError, TypeError)):
        trace_values(ForwardOf(lambda _, x: x if question(x) else -x), IMAGE)


def test_options_with_defaults_are_theirs():
    class Masked(nn.Module):
        def forward(self, x, mask=None, scale=2.0):
            return x * scale

    graph_module, values = trace_values(Masked(), IMAGE)
    (logits,) = list(graph_module.graph.nodes)[-1].args
    assert torch.equal(values[logits], IMAGE * 2)


def test_an_image_that_does_not_fit_is_told():
    with pytest.raises(CannotRunError, match="mat1"):
        trace_values(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)).double(), IMAGE)


def test_a_network_that_asserts_otherwise_is_told():
    def forward(self, x):
        torch._assert(x.sum() > 100, "too dark")
        return x

    with pytest.raises(CannotRunError, match="too dark"):
        trace_values(ForwardOf(forward), IMAGE)
