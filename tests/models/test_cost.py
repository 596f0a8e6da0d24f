import pytest
import torch
from torch import nn

from overproof.models.architectures.wide import WideResNet
from overproof.models.cost import multiply_adds
from overproof.models.weights import build
from overproof.signature import Signature

IMAGE = Signature(channels=3, height=8, width=6, classes=4)


class Attention(nn.Module):
    """Matrix products in functions, where no layer's hook would see them."""

    def forward(self, x):
        rows = x.flatten(2)  # [N, 3, 48]
        return (rows @ rows.transpose(1, 2)).flatten(1)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 10)), 144 * 10),
        (nn.Conv2d(3, 5, 3, padding=1), 8 * 6 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), 4 * 3 * 5 * 3 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 8 * 6 * 6 * 1 * 9),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2)), 8 * 6 * 5 * 3),
        (Attention(), 3 * 48 * 3),
        (nn.Flatten(), 0),
    ],
    ids=["linear", "convolution", "stride", "groups", "what is left out", "functions", "nothing"],
)
def test_closed_forms(network, expected):
    assert multiply_adds(network, IMAGE) == expected


def test_modes_are_given_back():
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5).eval())
    before = network[1].running_mean.clone()
    multiply_adds(network, IMAGE)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert torch.equal(network[1].running_mean, before)


def test_no_weights_are_needed():
    with torch.device("meta"):
        ghost = build(WideResNet(depth=10, width=1), IMAGE)
    assert multiply_adds(ghost, IMAGE) == multiply_adds(build(WideResNet(depth=10, width=1), IMAGE), IMAGE) > 0
