"""What holds for a network of any family."""

import pytest
import torch
from torch import fx, nn

from overproof.models.adapted import Adapted
from overproof.models.architecture import Signature
from overproof.models.catalogue import FAMILIES
from overproof.models.convnet import ConvNet
from overproof.models.dm_wide import DMWideResNet
from overproof.models.mlp import MLP
from overproof.models.mobilenetv2 import MobileNetV2
from overproof.models.preact import PreActResNet
from overproof.models.resnet import ResNet
from overproof.models.vgg import VGG
from overproof.models.wide import WideResNet

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
    Adapted(base=ResNet(depth=8, width=0.5), features=9),
]
# A family that is added and not listed here is examined with its defaults.
SMALL += [family() for family in FAMILIES.values() if family not in map(type, SMALL)]

every_model = pytest.mark.parametrize("architecture", SMALL, ids=repr)


@pytest.fixture
def x():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def built(architecture):
    """Return the network in eval mode, with BatchNorm statistics that are not the identity."""
    torch.manual_seed(0)
    network = architecture.build(SIGNATURE).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@every_model
def test_logits_are_the_head_of_the_embedding(architecture, x):
    network = built(architecture)
    embedding = network.embed(x)
    assert embedding.shape == (4, network.head.in_features)
    assert network(x).shape == (4, 7)
    assert torch.equal(network(x), network.head(embedding))


@every_model
def test_its_repr_rebuilds_it(architecture):
    names = {family.__name__: family for family in FAMILIES.values()}
    assert eval(repr(architecture), names) == architecture


@every_model
def test_fx_traces_it(architecture, x):
    network = built(architecture)
    traced = fx.symbolic_trace(network)
    assert torch.equal(traced(x), network(x))


@every_model
def test_compiles_without_a_graph_break(architecture, x):
    # All families share one forward method, whose compiled versions are counted together and limited to 8.
    torch.compiler.reset()
    network = built(architecture)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


@every_model
def test_an_example_does_not_see_the_rest_of_its_batch_in_eval_mode(architecture, x):
    network = built(architecture)
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, network(x), rtol=1e-4, atol=1e-5)


@every_model
def test_channels_last_changes_nothing(architecture, x):
    network = built(architecture)
    reference = network(x)
    network.to(memory_format=torch.channels_last)
    out = network(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast_is_finite(architecture, training, x):
    network = built(architecture).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@every_model
def test_gradient_reaches_the_image_and_every_parameter(architecture, x):
    network = built(architecture)
    (network(x.requires_grad_()) * torch.randn(4, 7)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


@every_model
def test_the_seed_decides_the_weights(architecture):
    first, again = built(architecture).state_dict(), built(architecture).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
