import pytest
import torch
from torch.nn import functional

from overproof.models.architectures.plain_resnet import PlainResNet, plain_resnets
from overproof.signature import Signature

CIFAR = Signature(channels=3, height=32, width=32, classes=10)
TWO_STAGES = PlainResNet(stem=4, stem_stride=1, channels=(4, 6), blocks=(1, 2), stride=(2, 2), hidden=(7, 5))


def by_hand(state, x, strides):
    """Return the logits of a network with one stage of two blocks, written out."""

    def conv(x, name, stride=1, padding=1):
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    x = conv(x, "conv1", strides[0]).relu()
    inner = conv(conv(x, "layer1.0.conv1", strides[1]).relu(), "layer1.0.conv2")
    x = (inner + conv(x, "layer1.0.shortcut.0", strides[1], 0)).relu()
    x = (conv(conv(x, "layer1.1.conv1").relu(), "layer1.1.conv2") + x).relu()
    x = functional.linear(x.flatten(1), state["linear1.weight"], state["linear1.bias"]).relu()
    return functional.linear(x, state["linear2.weight"], state["linear2.bias"])


def test_default_is_the_small_network_of_the_verification_benchmarks():
    network = PlainResNet().build(CIFAR)
    assert {name: tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")} == {
        "conv1.weight": (8, 3, 3, 3),
        "layer1.0.conv1.weight": (16, 8, 3, 3),
        "layer1.0.conv2.weight": (16, 16, 3, 3),
        "layer1.0.shortcut.0.weight": (16, 8, 1, 1),
        "layer1.1.conv1.weight": (16, 16, 3, 3),
        "layer1.1.conv2.weight": (16, 16, 3, 3),
        "linear1.weight": (100, 1024),
        "linear2.weight": (10, 100),
    }
    assert network.head is network.linear2


def test_it_computes_what_is_written_out_by_hand():
    network = PlainResNet().build(CIFAR).double()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    # The same sums in float64, perhaps in another order.
    assert (network(x) - by_hand(network.state_dict(), x, (2, 2))).abs().max() <= 1e-12


@pytest.mark.parametrize("side", [9, 16, 31])
def test_the_flattened_width_fits_every_input(side):
    size = Signature(channels=1, height=side, width=side + 5, classes=4)
    assert TWO_STAGES.build(size)(torch.rand(2, 1, side, side + 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": ()}, "one number for each of its stages"),
        ({"blocks": (1, 1)}, "one number for each of its stages"),
        ({"stem": 0}, "stem of a plain_resnet must be at least 1"),
        ({"stride": (0,)}, "stride of a plain_resnet must be at least 1"),
        ({"hidden": (0,)}, "hidden of a plain_resnet must be at least 1"),
    ],
)
def test_what_is_no_network_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        PlainResNet(**options)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("made", [PlainResNet(), PlainResNet(hidden=()), PlainResNet(stem=16, stride=(1,))])
def test_it_is_recognised_from_its_tensors(made, prefix):
    state = {prefix + name: value for name, value in made.build(CIFAR).state_dict().items()}
    found = plain_resnets({**state, "acc": torch.ones(())}, CIFAR)
    assert found == [made]


def test_where_several_fit_all_are_returned():
    made = PlainResNet(stem_stride=1, channels=(16, 20), blocks=(1, 1), stride=(2, 1))
    found = plain_resnets(made.build(CIFAR).state_dict(), CIFAR)
    assert {(one.stem_stride, *one.stride) for one in found} == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


@pytest.mark.parametrize(
    "change",
    [
        {"linear1.weight": torch.ones(100, 16)},  # as after global average pooling
        {"linear1.weight": torch.ones(100, 999)},
        {"conv1.weight": torch.ones(8)},
        {"layer1.0.conv1.weight": torch.ones(16)},
        {"linear1.weight": torch.ones(3)},
        {"conv1.weight": torch.ones(0, 3, 3, 3)},
    ],
)
def test_what_is_none_gives_none(change):
    state = PlainResNet().build(CIFAR).state_dict()
    assert plain_resnets({**state, **change}, CIFAR) == []
    assert plain_resnets({}, CIFAR) == []
