import pytest
import torch
from torch import nn

from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.vgg import VGG


def on_meta(architecture, side=32, channels=3, classes=10):
    with torch.device("meta"):
        return architecture.build(Signature(channels=channels, height=side, width=side, classes=classes))


@pytest.mark.parametrize(
    ("depth", "parameters"), [(11, 9_231_114), (13, 9_416_010), (16, 14_728_266), (19, 20_040_522)]
)
def test_parameter_counts(depth, parameters):
    assert sum(p.numel() for p in on_meta(VGG(depth=depth)).parameters()) == parameters


def test_vgg11_has_the_numbers_of_kuangliu():
    state = on_meta(VGG(depth=11)).state_dict()
    four_dimensional = [name for name, tensor in state.items() if tensor.dim() == 4]
    assert four_dimensional == [f"features.{i}.weight" for i in (0, 4, 8, 11, 15, 18, 22, 25)]
    assert {"features.0.bias", "features.1.running_mean", "classifier.weight", "classifier.bias"} < set(state)


@pytest.mark.parametrize(("side", "pools"), [(8, 3), (28, 4), (32, 5), (64, 5)])
def test_a_small_input_leaves_out_the_pools_of_single_pixels(side, pools):
    network = on_meta(VGG(depth=11), side=side, channels=1, classes=7)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network.features) == pools
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)
    assert network.state_dict().keys() == on_meta(VGG(depth=11)).state_dict().keys()


def test_penultimate_representation_is_the_flattened_features():
    network = VGG(depth=11, width=0.125).build(Signature(channels=3, height=32, width=32, classes=10)).eval()
    x = torch.randn(2, 3, 32, 32)
    assert network.embed(x).shape == (2, 64)
    torch.testing.assert_close(network.embed(x), network.features[:-1](x).flatten(1))


@pytest.mark.parametrize("options", [{"depth": 12}, {"width": 0.0}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match=f"not {next(iter(options.values()))}"):
        VGG(**options)
