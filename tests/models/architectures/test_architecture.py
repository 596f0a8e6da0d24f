import pytest
import torch
from torch import nn

from overproof.models.architectures.architecture import Architecture, Backbone


class Doubling(Backbone):
    """A backbone whose parts are simple enough to follow by hand."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 3)

    @property
    def head(self):
        return self.last

    def embed(self, x):
        return 2 * x.flatten(1)


def test_the_logits_are_the_head_over_the_embedding():
    network, x = Doubling(), torch.randn(5, 1, 1, 2)
    expected = 2 * x.reshape(5, 2) @ network.last.weight.T + network.last.bias
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("kind", [Architecture, Backbone])
def test_neither_is_built_without_its_parts(kind):
    with pytest.raises(TypeError, match="abstract"):
        kind()
