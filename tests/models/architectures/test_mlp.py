import pytest
import torch
from torch import nn

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.mlp import MLP

MNIST = Signature(channels=1, height=28, width=28, classes=10)


def test_parameters_are_named_and_shaped_like_the_reference_network():
    network = MLP().build(MNIST)
    assert {name: tuple(p.shape) for name, p in network.named_parameters()} == {
        "fc1.weight": (256, 784),
        "fc1.bias": (256,),
        "fc2.weight": (256, 256),
        "fc2.bias": (256,),
        "fc3.weight": (10, 256),
        "fc3.bias": (10,),
    }


def test_computes_relu_of_linear_layers():
    network = MLP(hidden=(5,)).build(Signature(channels=2, height=3, width=4, classes=3))
    w1, b1, w2, b2 = network.parameters()
    x = torch.randn(6, 2, 3, 4)
    hidden = (x.reshape(6, 24) @ w1.T + b1).clamp(min=0)
    torch.testing.assert_close(network.embed(x), hidden)
    torch.testing.assert_close(network(x), hidden @ w2.T + b2)


def test_channels_last_images_give_the_same_logits():
    network = MLP().build(Signature(channels=3, height=8, width=8, classes=10))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), network(x))


def test_no_hidden_layer_is_a_linear_classifier():
    network = MLP(hidden=()).build(MNIST)
    x = torch.randn(2, 1, 28, 28)
    assert isinstance(network.head, nn.Linear)
    assert torch.equal(network.embed(x), x.flatten(1))
    assert sum(p.numel() for p in network.parameters()) == 7850


def test_refuses_an_empty_layer():
    with pytest.raises(ValueError, match="at least 1"):
        MLP(hidden=(10, 0))
