import pytest
import torch
from torch import nn

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.wide import WideResNet


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


@pytest.mark.parametrize(
    ("depth", "width", "classes", "parameters"),
    [(34, 10, 10, 46_160_474), (34, 10, 100, 46_218_164), (28, 10, 10, 36_479_194), (16, 8, 10, 10_961_370)],
)
def test_parameter_counts(depth, width, classes, parameters):
    network = on_meta(WideResNet(depth=depth, width=width), classes=classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_names_of_trades_without_its_unused_block():
    state = on_meta(WideResNet()).state_dict()
    assert {name for name in state if "convShortcut" in name} == {
        f"block{i}.layer.0.convShortcut.weight" for i in (1, 2, 3)
    }
    assert {
        "conv1.weight",
        "block1.layer.0.bn1.weight",
        "block3.layer.4.conv2.weight",
        "bn1.bias",
        "fc.weight",
    } < set(state)
    assert {name.split(".")[0] for name in state} == {"conv1", "block1", "block2", "block3", "bn1", "fc"}


def test_a_block_that_widens_activates_before_its_shortcut():
    network = WideResNet(depth=10, width=2).build(Signature(channels=3, height=8, width=8, classes=10)).eval()
    block, x = network.block2.layer[0], torch.randn(2, 32, 8, 8)
    activated = block.relu1(block.bn1(x))
    branch = block.conv2(block.relu2(block.bn2(block.conv1(activated))))
    torch.testing.assert_close(block(x), branch + block.convShortcut(activated))


def test_starts_he_normal_over_fan_out_with_a_zero_head_bias():
    network = WideResNet(depth=10, width=4).build(Signature(channels=3, height=8, width=8, classes=10))
    weight = network.block3.layer[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.03)
    assert torch.equal(network.fc.bias, torch.zeros(10))


@pytest.mark.parametrize(("activation", "layer"), [("relu", nn.ReLU), ("silu", nn.SiLU)])
def test_one_activation_throughout(activation, layer):
    network = on_meta(WideResNet(depth=10, width=1, activation=activation))
    assert {type(m) for m in network.modules() if isinstance(m, (nn.ReLU, nn.SiLU))} == {layer}


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_takes_every_usual_size(side):
    network = on_meta(WideResNet(depth=10, width=1), side=side, channels=1, classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("options", [{"depth": 30}, {"depth": 4}, {"width": 0}, {"activation": "gelu"}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match=f"wide resnet .*not {next(iter(options.values()))!r}"):
        WideResNet(**options)


def test_refuses_an_input_that_vanishes():
    with pytest.raises(ValueError, match="at least 4x4 pixels, not 3x3"):
        on_meta(WideResNet(), side=3)
