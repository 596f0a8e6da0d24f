import pytest
import torch

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.resnet import ResNet


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


@pytest.mark.parametrize(
    ("depth", "classes", "parameters"),
    [
        (18, 10, 11_173_962),
        (18, 100, 11_220_132),
        (34, 10, 21_282_122),
        (50, 10, 23_520_842),
        (20, 10, 272_474),
        (32, 10, 466_906),
        (56, 10, 855_770),
    ],
)
def test_parameter_counts(depth, classes, parameters):
    network = on_meta(ResNet(depth=depth), classes=classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_resnet18_has_the_names_of_kuangliu():
    state = on_meta(ResNet(depth=18)).state_dict()
    block = {"conv1.weight", "conv2.weight"} | {
        f"{bn}.{part}"
        for bn in ("bn1", "bn2")
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert {name.removeprefix("layer1.0.") for name in state if name.startswith("layer1.0.")} == block
    projection = {name for name in state if name.startswith("layer2.0.shortcut.")}
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"} < projection
    assert {"conv1.weight", "bn1.weight", "linear.weight", "linear.bias"} < set(state)
    assert len(state) == 122


def test_resnet50_has_bottlenecks():
    state = on_meta(ResNet(depth=50)).state_dict()
    assert state["layer1.0.conv3.weight"].shape == (256, 64, 1, 1)
    assert state["layer1.0.shortcut.0.weight"].shape == (256, 64, 1, 1)
    assert state["linear.weight"].shape == (10, 2048)


def test_thin_resnet_has_the_names_of_chenyaofo():
    state = on_meta(ResNet(depth=20)).state_dict()
    assert {name for name in state if "downsample" in name and name.endswith("weight")} == {
        f"layer{i}.0.downsample.{j}.weight" for i in (2, 3) for j in (0, 1)
    }
    assert state["fc.weight"].shape == (10, 64)
    assert not any("shortcut" in name or "linear" in name for name in state)


def test_resnet8_is_the_smallest_of_the_paper_s_section_on_cifar():
    """One block per stage: 77,360 weights of convolutions and linear layer at 16-32-64, and those of BatchNorm."""
    state = on_meta(ResNet(depth=8)).state_dict()
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 16 * 32 + 32 * 64
    weights = {name: value for name, value in state.items() if value.ndim in (2, 4)}
    assert sum(value.numel() for value in weights.values()) == convolutions + 640
    assert state["fc.weight"].shape == (10, 64) and "layer1.1.conv1.weight" not in state


def test_thin_convolutions_start_he_normal_over_fan_out():
    network = ResNet(depth=56).build(Signature(channels=3, height=32, width=32, classes=10))
    weight = network.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize("depth", [18, 50, 20])
def test_takes_every_usual_size(depth, side):
    network = on_meta(ResNet(depth=depth, width=0.25), side=side, channels=1, classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


def test_global_pooling_equals_the_official_4x4_average_at_32x32():
    network = ResNet(depth=18, width=0.0625).build(Signature(channels=3, height=32, width=32, classes=10)).eval()
    x = torch.randn(2, 3, 32, 32)
    out = network.relu(network.bn1(network.conv1(x)))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        out = stage(out)
    assert out.shape == (2, 32, 4, 4)
    torch.testing.assert_close(network.embed(x), torch.nn.functional.avg_pool2d(out, 4).flatten(1))


@pytest.mark.parametrize("options", [{"depth": 19}, {"width": 0.0}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match=f"not {next(iter(options.values()))}"):
        ResNet(**options)


@pytest.mark.parametrize(("depth", "side"), [(18, 7), (20, 3)])
def test_refuses_an_input_that_vanishes(depth, side):
    with pytest.raises(ValueError, match=f"resnet-{depth} halves .* at least {side + 1}x{side + 1} pixels"):
        on_meta(ResNet(depth=depth), side=side)


def test_a_stem_with_a_stride_halves_every_layer_s_image_and_keeps_the_weights():
    plain, strided = (on_meta(ResNet(depth=8, stem_stride=stride), side=28, channels=1) for stride in (1, 2))
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in strided.named_parameters()}
    x = torch.empty(1, 1, 28, 28, device="meta")
    assert plain.conv1(x).shape[-1] == 28 and strided.conv1(x).shape[-1] == 14


@pytest.mark.parametrize(("architecture", "side"), [(ResNet(depth=8, stem_stride=2), 7), (ResNet(depth=8), 3)])
def test_what_the_stem_leaves_must_still_be_halved(architecture, side):
    with pytest.raises(ValueError, match=f"not {side}x{side}"):
        on_meta(architecture, side=side, channels=1)


def test_a_stem_takes_at_least_one_step():
    with pytest.raises(ValueError, match="stem_stride of a resnet must be at least 1, not 0"):
        ResNet(stem_stride=0)
