"""What holds for a network of any family."""

import pytest
import torch
from torch import fx

from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.architecture import Signature
from overproof.models.architectures.catalogue import FAMILIES
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.testing import ArchitectureContract

SIGNATURE = Signature(channels=3, height=16, width=16, classes=7)

SMALL = [
    MLP(hidden=(12, 10)),
    ConvNet(channels=(4, 8), hidden=(10,)),
    ResNet(depth=18, width=0.125),
    ResNet(depth=50, width=0.0625),
    ResNet(depth=8, width=0.5),
    PreActResNet(width=0.125),
    PreActResNet(width=0.125, shortcut="raw"),
    WideResNet(depth=10, width=1),
    WideResNet(depth=10, width=2, activation="silu"),
    DMWideResNet(depth=10, width=2),
    MobileNetV2(width=0.25),
    VGG(depth=11, width=0.125),
    PlainResNet(stem=3, channels=(4, 5), blocks=(2, 1), stride=(1, 2), hidden=()),
    FeatureAdapter(base=ResNet(depth=8, width=0.5), features=9),
]
# A family that is added and not listed here is examined with its defaults.
SMALL += [family() for family in FAMILIES.values() if family not in map(type, SMALL)]


class TestEveryArchitecture(ArchitectureContract):
    signature = SIGNATURE

    @pytest.fixture(params=SMALL, ids=repr)
    def architecture(self, request):
        return request.param

    def test_logits_are_the_head_of_the_embedding(self, network, x):
        embedding = network.embed(x)
        assert embedding.shape == (4, network.head.in_features)
        assert network(x).shape == (4, 7)
        assert torch.equal(network(x), network.head(embedding))

    def test_its_repr_rebuilds_it(self, architecture):
        names = {family.__name__: family for family in FAMILIES.values()}
        assert eval(repr(architecture), names) == architecture

    def test_fx_traces_it(self, network, x):
        assert torch.equal(fx.symbolic_trace(network)(x), network(x))
