import pytest
import torch

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.mobilenetv2 import MobileNetV2


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


@pytest.mark.parametrize(("classes", "parameters"), [(10, 2_296_922), (100, 2_412_212)])
def test_parameter_counts(classes, parameters):
    assert sum(p.numel() for p in on_meta(MobileNetV2(), classes=classes).parameters()) == parameters


def test_names_of_kuangliu():
    state = on_meta(MobileNetV2()).state_dict()
    assert {name.split(".")[0] for name in state} == {"conv1", "bn1", "layers", "conv2", "bn2", "linear"}
    assert {name.split(".")[2] for name in state if name.startswith("layers.3.")} == {
        *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
    }
    widening = {int(name.split(".")[1]) for name in state if "shortcut.0" in name}
    assert widening == {0, 1, 10, 16}
    assert {int(name.split(".")[1]) for name in state if name.startswith("layers")} == set(range(17))


def test_every_block_of_stride_1_is_residual():
    network = on_meta(MobileNetV2())
    assert {block.conv2.stride[0]: block.shortcut is None for block in network.layers} == {1: False, 2: True}
    assert [i for i, block in enumerate(network.layers) if block.shortcut is None] == [3, 6, 13]


def test_width_multiplies_channels_in_eights_and_keeps_the_last_convolution():
    narrow, wide = on_meta(MobileNetV2(width=0.5)), on_meta(MobileNetV2(width=1.5))
    assert narrow.conv1.out_channels == 16
    assert [narrow.layers[i].conv3.out_channels for i in (0, 1, 16)] == [8, 16, 160]
    assert (narrow.head.in_features, wide.head.in_features) == (1280, 1920)


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_takes_every_usual_size(side):
    network = on_meta(MobileNetV2(), side=side, channels=1, classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


def test_refuses_a_width_of_nothing():
    with pytest.raises(ValueError, match="must be positive, not 0"):
        MobileNetV2(width=0.0)


def test_refuses_an_input_that_vanishes():
    with pytest.raises(ValueError, match="at least 8x8 pixels, not 7x7"):
        on_meta(MobileNetV2(), side=7)
