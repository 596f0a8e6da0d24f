"""Which steps of a graph_module are read: those that the output depends on, and whatever they share memory with."""

import pytest
import torch
from torch import nn

from overproof.bounds.composed import Draft
from overproof.bounds.recording import trace_values
from overproof.bounds.sources import Steps
from overproof.bounds.trace import trace

from .networks import ForwardOf, settled, uniform, value

IMAGE = uniform(2, 2, 4, 4)


def needed(forward):
    graph_module, values = trace_values(ForwardOf(forward), IMAGE)
    steps = Steps(graph_module, values, Draft(), {}, running=False)
    return [step.name for step in steps.needed(graph_module.graph.nodes) if step.op not in ("placeholder", "output")]


def test_what_nobody_reads_is_left_out():
    def forward(_, x):
        x.mean()
        unread = x * 2
        unread.relu()
        return x.sigmoid()

    assert needed(forward) == ["sigmoid"]


def test_what_is_written_into_a_value_that_others_read_is_kept():
    def forward(_, x):
        y = x * 2
        y.view(-1).relu_()
        return y.sigmoid()

    assert needed(forward) == ["mul", "view", "relu_", "sigmoid"]


def test_what_is_written_to_elsewhere_is_kept():
    def forward(_, x):
        y = x * 2
        torch.add(x, 1, out=y)
        return y.sigmoid()

    assert needed(forward) == ["mul", "add", "sigmoid"]


@pytest.mark.parametrize("unread", [lambda x: x.mean(0), lambda x: x.sort(), lambda x: torch.fft.fft2(x)])
def test_a_step_without_bounds_that_nobody_reads_does_not_matter(unread):
    def forward(self, x):
        hidden = self.conv(x)
        unread(hidden)
        return self.head(hidden.relu().flatten(1))

    network = settled(ForwardOf(forward, conv=nn.Conv2d(2, 4, 3, padding=1), head=nn.Linear(64, 3)))
    graph, x = trace(network, (2, 4, 4)).graph(), uniform(3, 2, 4, 4)
    torch.testing.assert_close(value(graph, x), network(x), rtol=0, atol=1e-10)
