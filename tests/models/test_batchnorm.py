import pytest
import torch
from torch import nn

from overproof.models.architectures.convnet import ConvNet
from overproof.models.batchnorm import least_batch
from overproof.models.classifier import Classifier
from overproof.models.weights import build
from overproof.signature import Signature


def network(*layers):
    return Classifier(nn.Sequential(*layers), Signature(channels=1, height=4, width=4, classes=2))


NETWORKS = {
    "none": (1, network(nn.Flatten(), nn.Linear(16, 2))),
    "map": (1, network(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))),
    "1x1": (2, network(nn.Conv2d(1, 3, 4), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))),
    "flat": (2, network(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_what_torch_asks_for(name):
    least, model = NETWORKS[name]
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert least_batch(model) == least
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    if least == 1:
        model(torch.rand(1, 1, 4, 4))
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            model(torch.rand(1, 1, 4, 4))
        model(torch.rand(2, 1, 4, 4))


def test_of_ours():
    signature = Signature(channels=1, height=8, width=8, classes=10)
    assert least_batch(build(ConvNet(channels=(4,), hidden=(8,)), signature)) == 1
