import pytest
import torch

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.preact import PreActResNet


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


# kuangliu's 11,171,146 and 21,279,306, and 1,024 for the BatchNorm before the head.
@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_172_170), (34, 21_280_330)])
def test_parameter_counts(depth, parameters):
    assert sum(p.numel() for p in on_meta(PreActResNet(depth=depth)).parameters()) == parameters


def test_names_of_robustbench():
    state = on_meta(PreActResNet()).state_dict()
    assert {name for name in state if "shortcut" in name} == {f"layer{i}.0.shortcut.0.weight" for i in (2, 3, 4)}
    assert {
        "conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.0.conv1.weight",
        "bn.running_mean",
        "linear.bias",
    } < set(state)
    assert "bn1.weight" not in state


def test_the_two_shortcuts_share_parameters_and_differ_in_function():
    signature = Signature(channels=3, height=8, width=8, classes=10)
    activated = PreActResNet(width=0.0625).build(signature).eval()
    raw = PreActResNet(width=0.0625, shortcut="raw").build(signature).eval()
    raw.load_state_dict(activated.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(raw(x), activated(x))

    block, h = activated.layer2[0], torch.randn(2, 4, 8, 8)
    normed = block.relu1(block.bn1(h))
    branch = block.conv2(block.relu2(block.bn2(block.conv1(normed))))
    torch.testing.assert_close(block(h), branch + block.shortcut(normed))
    torch.testing.assert_close(raw.layer2[0](h), branch + block.shortcut(h))


def test_with_silu_the_parameters_are_the_same_and_every_activation_is_silu():
    signature = Signature(channels=3, height=8, width=8, classes=10)
    relu, silu = (PreActResNet(width=0.0625, activation=name).build(signature).eval() for name in ("relu", "silu"))
    silu.load_state_dict(relu.state_dict())
    assert not [module for module in silu.modules() if isinstance(module, torch.nn.ReLU)]
    assert sum(isinstance(module, torch.nn.SiLU) for module in silu.modules()) == 2 * 8 + 1
    x = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(silu(x), relu(x))
    block, h = silu.layer2[0], torch.randn(2, 4, 8, 8)
    normed = torch.nn.functional.silu(block.bn1(h))
    branch = block.conv2(torch.nn.functional.silu(block.bn2(block.conv1(normed))))
    torch.testing.assert_close(block(h), branch + block.shortcut(normed))


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_takes_every_usual_size(side):
    network = on_meta(PreActResNet(), side=side, channels=1, classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("options", [{"depth": 20}, {"width": -1.0}, {"shortcut": "plain"}, {"activation": "gelu"}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match=f"not {next(iter(options.values()))!r}"):
        PreActResNet(**options)


def test_refuses_an_input_that_vanishes():
    with pytest.raises(ValueError, match="at least 8x8 pixels, not 7x7"):
        on_meta(PreActResNet(), side=7)
