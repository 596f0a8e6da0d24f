import pytest
import torch

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.convnet import ConvNet

MNIST = Signature(channels=1, height=28, width=28, classes=10)


def test_default_is_the_small_certified_network():
    network = ConvNet().build(MNIST)
    assert {name: tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")} == {
        "conv1.weight": (16, 1, 4, 4),
        "conv2.weight": (32, 16, 4, 4),
        "fc1.weight": (100, 1568),
        "fc2.weight": (10, 100),
    }


def test_narrow_student():
    network = ConvNet(channels=(4, 8), hidden=(50,)).build(MNIST)
    assert network.fc1.weight.shape == (50, 392)
    assert network.head is network.fc2


def test_large_certified_network_takes_one_value_per_layer():
    large = ConvNet(channels=(32, 32, 64, 64), kernel=(3, 4, 3, 4), stride=(1, 2, 1, 2), hidden=(512, 512))
    network = large.build(MNIST)
    assert [network.conv1.stride, network.conv2.stride] == [(1, 1), (2, 2)]
    assert network.fc1.in_features == 64 * 7 * 7
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize("padding", [0, 1])
def test_the_flattened_width_fits_every_input(side, padding):
    with torch.device("meta"):
        network = ConvNet(kernel=3, stride=(1, 2), padding=padding).build(
            Signature(channels=3, height=side, width=side + 5, classes=7)
        )
        assert network(torch.empty(2, 3, side, side + 5)).shape == (2, 7)


def test_channels_last_flattens_in_channel_row_column_order():
    network = ConvNet(channels=(3, 5), hidden=()).build(Signature(channels=2, height=8, width=8, classes=4))
    x = torch.randn(3, 2, 8, 8)
    reference = network(x)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), reference)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": ()}, "at least one convolution"),
        ({"channels": (4, 0)}, "channels .* at least 1"),
        ({"kernel": 0}, "kernel .* at least 1"),
        ({"stride": (1, 0)}, "stride .* at least 1"),
        ({"padding": -1}, "padding .* at least 0"),
        ({"hidden": (0,)}, "hidden .* at least 1"),
        ({"kernel": (3, 3, 3)}, r"one per convolution \(2\), not \(3, 3, 3\)"),
    ],
)
def test_refuses_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConvNet(**options)


def test_refuses_an_input_that_vanishes():
    with pytest.raises(ValueError, match=r"4x9 is too small .* convolution 2 has a 5x5 kernel and sees 2x7"):
        ConvNet(kernel=(3, 5), stride=1, padding=0).build(Signature(channels=1, height=4, width=9, classes=2))
