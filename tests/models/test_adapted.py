import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.functional import cross_entropy
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.catalogue import FAMILIES
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.weights import build, from_plain, load_model, save_model
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=16, width=16, classes=7)

BASES = [
    MLP(hidden=(12, 10)),
    MLP(hidden=()),
    ConvNet(channels=(4, 8), hidden=(10,)),
    ConvNet(channels=(4, 8), hidden=()),
    ResNet(depth=18, width=0.125),
    ResNet(depth=50, width=0.0625),
    ResNet(depth=8, width=0.5),
    PreActResNet(width=0.125),
    WideResNet(depth=10, width=1),
    DMWideResNet(depth=10, width=2),
    MobileNetV2(width=0.25),
    VGG(depth=11, width=0.125),
]
BASES += [family() for kind, family in FAMILIES.items() if kind != "adapted" and family not in map(type, BASES)]
every_base = pytest.mark.parametrize("base", BASES, ids=repr)


@pytest.fixture
def x():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def built(base, features=6):
    torch.manual_seed(0)
    return build(FeatureAdapter(base=base, features=features), SIGNATURE)


@every_base
def test_every_parameter_learns(base, x):
    network = built(base)
    cross_entropy(network(x), torch.arange(4)).mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name


@every_base
def test_nothing_is_left_of_the_old_head(base):
    """The base without its head, the adapter, and a head of the same number of classes; nothing else."""
    with torch.device("meta"):
        plain = base.build(SIGNATURE)
    network = built(base).backbone
    old = plain.head
    without = parameter_count(plain) - parameter_count(old)
    added = old.in_features * 6 + 6 + 6 * 7 + 7
    assert parameter_count(network) == without + added
    assert sum(isinstance(module, nn.Linear) and module.out_features == 7 for module in network.modules()) == 1


@every_base
def test_logits_are_head_of_adapter_of_base_without_an_activation(base, x):
    network = built(base).eval()
    backbone = network.backbone
    hidden = backbone.base.embed(x)
    representation = F.linear(hidden, backbone.adapter.weight, backbone.adapter.bias)
    logits, found = network.features(x)
    assert found.shape == (4, 6) and network.head is backbone.head
    torch.testing.assert_close(found, representation)
    torch.testing.assert_close(logits, F.linear(representation, network.head.weight, network.head.bias))
    torch.testing.assert_close(network(x), logits)
    assert (found < 0).any()


@every_base
def test_it_is_saved_and_read_back(base, x, tmp_path):
    network, architecture = built(base), FeatureAdapter(base=base, features=6)
    with torch.no_grad():
        network(x)  # BatchNorm statistics that are not the identity
    save_model(tmp_path, network, architecture, tuple("abcdefg"), facts={})
    again, description = load_model(tmp_path)
    assert from_plain(description["architecture"]) == architecture
    assert torch.equal(again(x), network.eval()(x))
    assert parameter_count(again) == parameter_count(network)


@pytest.mark.parametrize("base", [ResNet(depth=18, width=0.125), MLP(hidden=(9,))], ids=repr)
def test_the_body_is_the_bases_own(base, x):
    torch.manual_seed(0)
    plain = Classifier(base.build(SIGNATURE), SIGNATURE)
    adapted = built(base)
    missing, unexpected = adapted.backbone.base.load_state_dict(plain.backbone.state_dict(), strict=False)
    assert not missing and len(unexpected) == 2  # weight and bias of the head
    torch.testing.assert_close(adapted.eval().backbone.base.embed(x), plain.eval().backbone.embed(x))


def test_an_adapter_of_an_adapter():
    network = built(FeatureAdapter(base=MLP(hidden=(9,)), features=5), features=3)
    assert network.head.in_features == 3 and network.backbone.adapter.in_features == 5


def test_no_features_are_refused():
    with pytest.raises(ValueError, match=r"^features must be at least 1, got 0$"):
        FeatureAdapter(base=MLP(), features=0)
