import pytest
import torch
import torch.nn.functional as F

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.wide import WideResNet


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


@pytest.mark.parametrize(("depth", "width"), [(28, 10), (70, 16)])
def test_has_as_many_parameters_as_a_wide_resnet(depth, width):
    counts = [
        sum(p.numel() for p in on_meta(family(depth=depth, width=width)).parameters())
        for family in (DMWideResNet, WideResNet)
    ]
    assert counts[0] == counts[1]


def test_names_of_robustbench():
    state = on_meta(DMWideResNet(depth=16, width=2)).state_dict()
    assert {name for name in state if "shortcut" in name} == {f"layer.{i}.block.0.shortcut.weight" for i in range(3)}
    assert {name.split(".", 4)[-1] for name in state if name.startswith("layer.2.block.1.")} == {
        "conv_0.weight",
        "conv_1.weight",
        *(
            f"batchnorm_{i}.{part}"
            for i in (0, 1)
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
    }
    assert {name.split(".")[0] for name in state} == {"init_conv", "layer", "batchnorm", "logits"}


def test_a_strided_block_pads_below_and_on_the_right():
    network = DMWideResNet(depth=10, width=1).build(Signature(channels=3, height=8, width=8, classes=10)).eval()
    block, x = network.layer[1].block[0], torch.randn(2, 16, 8, 8)
    activated = F.silu(block.batchnorm_0(x))
    out = F.conv2d(F.pad(activated, (0, 1, 0, 1)), block.conv_0.weight, stride=2)
    out = F.conv2d(F.silu(block.batchnorm_1(out)), block.conv_1.weight, padding=1)
    torch.testing.assert_close(block(x), out + F.conv2d(activated, block.shortcut.weight, stride=2))


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_takes_every_usual_size(side):
    network = on_meta(DMWideResNet(depth=10, width=1), side=side, channels=1, classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("options", [{"depth": 18}, {"width": 0}, {"activation": "swish"}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match=f"dm_wide resnet .*not {next(iter(options.values()))!r}"):
        DMWideResNet(**options)


def test_refuses_sides_its_padding_does_not_fit():
    with pytest.raises(ValueError, match="multiples of 4, not 30x30"):
        on_meta(DMWideResNet(), side=30)
