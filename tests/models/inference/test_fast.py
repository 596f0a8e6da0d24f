from copy import deepcopy

import pytest
import torch
from torch import nn

from overproof.models.architectures.catalogue import FAMILIES, NAMED
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.classifier import Classifier
from overproof.models.inference.fast import Fast, fold_batchnorm
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=16, width=16, classes=7)
STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.25)}
# Every family with how many of its BatchNorms follow no convolution: those that come before one.
SMALL = [
    (MLP(hidden=(12, 10)), 0),
    (ConvNet(channels=(4, 8), hidden=(10,)), 0),
    (ResNet(depth=18, width=0.125), 0),
    (ResNet(depth=50, width=0.0625), 0),
    (ResNet(depth=20, width=0.5), 0),
    (PreActResNet(width=0.125), 9),
    (WideResNet(depth=10, width=1), 4),
    (WideResNet(depth=10, width=2, activation="silu"), 3),
    (DMWideResNet(depth=10, width=2), 3),
    (MobileNetV2(width=0.25), 0),
    (VGG(depth=11, width=0.125), 0),
]
# A family that is added and not listed here is examined with its defaults.
SMALL += [(family(), None) for family in FAMILIES.values() if family not in [type(small) for small, _ in SMALL]]
every_family = pytest.mark.parametrize(("architecture", "left"), SMALL, ids=lambda value: repr(value))


def stirred(network, seed=0):
    """Return the network with BatchNorms that are far from the identity."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return network


def classifier(architecture):
    torch.manual_seed(0)
    return Classifier(stirred(architecture.build(SIGNATURE)), SIGNATURE, **STATISTICS)


def images(n=4):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def answers(network, x):
    was = network.training
    with torch.no_grad():
        logits = network.eval()(x)
    network.train(was)
    return logits


# --- the same answers -------------------------------------------------------------------------------------------------


def test_the_families_of_every_named_network_are_examined():
    assert {type(architecture) for architecture in NAMED.values()} <= {type(small) for small, _ in SMALL}


@every_family
def test_logits_and_gradients_are_those_of_the_original(architecture, left):
    model, x = classifier(architecture).eval(), images().requires_grad_()
    fast = Fast(model, "fp32")
    one, other = model(x), fast(x)
    scale = one.abs().max()
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(scale.detach()))
    slopes = [torch.autograd.grad(logits.square().sum(), x)[0] for logits in (one, other)]
    assert (slopes[0] - slopes[1]).norm() <= 1e-5 * slopes[0].norm()
    assert slopes[0].norm() > 0


@every_family
def test_no_batchnorm_is_left_behind_a_convolution(architecture, left):
    model = classifier(architecture)
    expected = left if left is not None else 0
    assert norms(Fast(model, "fp32")) == norms(Fast(model, "bf16")) == expected
    assert norms(model) > expected or not norms(model)


@every_family
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_original_is_untouched(architecture, left, precision, modes):
    model = classifier(architecture).train()
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    next(model.backbone.children()).eval()
    was, state, before = modes(model), deepcopy(model.state_dict()), list(map(repr, model.modules()))
    x = images().requires_grad_()
    Fast(model, precision)(x).sum().backward()
    assert modes(model) == was and list(map(repr, model.modules())) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.dtype == state[name].dtype for name, value in model.state_dict().items())
    assert all(value.requires_grad == (value is not first) for value in model.parameters())
    assert torch.equal(second.grad, torch.ones_like(second))
    assert all(value.grad is None for value in model.parameters() if value is not second)


@every_family
def test_it_is_frozen_and_in_eval_mode(architecture, left):
    fast = Fast(classifier(architecture).train(), "bf16")
    assert not any(value.requires_grad for value in fast.parameters())
    x = images()
    assert torch.equal(fast(x), fast(x))
    # No statistic of the batch: an image's logits do not depend on its neighbours, but for rounding.
    torch.testing.assert_close(fast(x)[:1], fast(x[:1]), rtol=0, atol=2**-6 * float(fast(x).abs().max()))


# --- bf16 -------------------------------------------------------------------------------------------------------------


@every_family
def test_bf16_is_close(architecture, left):
    model, x = classifier(architecture), images(16)
    exact, rough = answers(model, x), answers(Fast(model, "bf16"), x)
    assert rough.dtype == torch.float32
    error = (rough - exact).abs().max() / exact.abs().max()
    assert error <= 4 * 2**-8
    assert error > 0


@every_family
def test_bf16_ends_in_a_head_of_float32_with_its_weights_as_they_were(architecture, left):
    model = classifier(architecture)
    fast = Fast(model, "bf16")
    heads = [
        module for module in fast.modules() if isinstance(module, nn.Linear) and module.weight.dtype != torch.bfloat16
    ]
    assert len(heads) == 1
    assert torch.equal(heads[0].weight, model.head.weight) and torch.equal(heads[0].bias, model.head.bias)
    assert not torch.equal(model.head.weight, model.head.weight.bfloat16().float())
    own = {id(weight) for weight in heads[0].parameters()}
    tensors = (*fast._backbone.parameters(), *fast._backbone.buffers())
    others = [tensor.dtype for tensor in tensors if tensor.is_floating_point() and id(tensor) not in own]
    assert set(others) == {torch.bfloat16}


def test_nearby_images_have_different_logits():
    # Logits rounded to bf16 would stand still between 2 and 4 for changes below 1/128.
    model = classifier(ConvNet(channels=(4, 8), hidden=(10,)))
    model.head.bias.data += 3
    x = (images(1) + torch.linspace(0, 0.02, 20).view(-1, 1, 1, 1)).clamp(0, 1)
    fast = answers(Fast(model, "bf16"), x)
    apart = len(fast[:, 0].unique())
    assert apart > 2 * len(fast[:, 0].bfloat16().unique())
    assert not torch.equal(fast, fast.bfloat16().float())


def test_gradients_of_bf16_point_the_same_way():
    model, x = classifier(ResNet(depth=20, width=0.5)).eval(), images().requires_grad_()
    one, other = (torch.autograd.grad(network(x)[:, 0].sum(), x)[0] for network in (model, Fast(model, "bf16")))
    assert other.dtype == torch.float32
    assert torch.cosine_similarity(one.flatten(1), other.flatten(1)).min() > 0.95


# --- normalisation, precision of the original -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("statistics", [STATISTICS, {}])
def test_the_normalisation_is_kept_in_float32(precision, statistics):
    class Mean(nn.Module):
        """Give each channel's mean: what the backbone gets to see."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3, bias=False)
            nn.init.eye_(self.head.weight)

        def forward(self, x):
            return self.head(x.mean(dim=(2, 3)))

    signature = Signature(channels=3, height=4, width=4, classes=3)
    model = Classifier(Mean(), signature, **statistics)
    x = torch.tensor([0.9, 0.2, 0.6]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    expected = torch.tensor([1.6, -1.0, 1.2] if statistics else [0.9, 0.2, 0.6])
    tolerance = 2**-8 if precision == "bf16" else 1e-6
    torch.testing.assert_close(Fast(model, precision)(x)[0], expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_of_float64_is_searched_in_less(precision):
    model, x = classifier(ResNet(depth=20, width=0.5)).double(), images().double().requires_grad_()
    fast = Fast(model, precision)
    logits = fast(x)
    assert logits.dtype == torch.float32
    exact = answers(model, x.detach())
    assert (logits - exact).abs().max() <= (1e-5 if precision == "fp32" else 4 * 2**-8) * exact.abs().max()
    assert torch.autograd.grad(logits.sum(), x)[0].dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in model.parameters())


# --- what may be folded, and what may not -----------------------------------------------------------------------------


class Fork(nn.Module):
    """A convolution whose output is also used as it is, before its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        out = self.conv(x)
        return self.norm(out) + out


class Twice(nn.Module):
    """One convolution with two BatchNorms, or two convolutions with one."""

    def __init__(self, convolutions, norms):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms))

    def forward(self, x):
        return self.norms[-1](self.convs[-1](self.norms[0](self.convs[0](x))))


class Depends(nn.Module):
    """A network whose control flow depends on its input: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        out = self.norm(self.conv(x))
        if out.sum() > 0:
            out = out.relu()
        return self.head(out.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.BatchNorm2d(6)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), 0),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1),
        (Fork, 1),
        (lambda: Twice(1, 2), 2),
        (lambda: Twice(2, 1), 1),
        (lambda: Twice(2, 2), 0),
        (Depends, 1),
    ],
    ids=[
        "plain",
        "without weights",
        "grouped",
        "after relu",
        "two in a row",
        "before",
        "without statistics",
        "fork",
        "shared convolution",
        "shared batchnorm",
        "two pairs",
        "untraceable",
    ],
)
def test_only_what_is_a_convolution_then_a_batchnorm_is_folded(make, left):
    torch.manual_seed(1)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            stirred(module)
    network.eval()
    x, state, count = torch.randn(5, 3, 8, 8), deepcopy(network.state_dict()), norms(network)
    with torch.no_grad():
        expected = network(x)
        found = fold_batchnorm(network)
        torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-5)
    assert norms(found) == left and norms(network) == count
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class Flattening(nn.Module):
    """A convolution and a ReLU that is flattened; its activation may be looked at by another layer as well."""

    def __init__(self, shared, in_place):
        super().__init__()
        self.conv, self.relu, self.flatten = nn.Conv2d(3, 4, 3), nn.ReLU(in_place), nn.Flatten()
        self.shared = shared

    def forward(self, x):
        active = self.relu(self.conv(x))
        flat = self.flatten(active)
        return flat + active.sum() if self.shared else flat


@pytest.mark.parametrize(("shared", "in_place"), [(False, False), (True, False), (False, True)])
def test_a_relu_that_is_only_flattened_comes_after_it_and_answers_the_same(shared, in_place):
    network = Flattening(shared, in_place).eval()
    graph = fold_batchnorm(network)
    order = ["relu", "flatten"] if shared or in_place else ["flatten", "relu"]
    assert [node.target for node in graph.graph.nodes if node.target in ("relu", "flatten")] == order
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    assert torch.equal(graph(x), network(x))
    sides = [torch.autograd.grad(one(x).square().sum(), x)[0] for one in (graph, network)]
    assert torch.equal(*sides)


def test_a_network_that_cannot_be_traced_comes_back_itself_and_works_in_both_precisions():
    network = stirred(Depends().eval())
    assert fold_batchnorm(network) is network
    model, x = Classifier(network, Signature(channels=3, height=8, width=8, classes=2)), torch.rand(4, 3, 8, 8)
    exact = answers(model, x)
    torch.testing.assert_close(Fast(model, "fp32")(x), exact, rtol=1e-5, atol=1e-6)
    rough = Fast(model, "bf16")
    torch.testing.assert_close(rough(x), exact, rtol=0, atol=4 * 2**-8 * float(exact.abs().max()))
    assert torch.equal(rough._backbone.head.linear.weight, network.head.weight)


def test_the_head_is_the_last_linear_layer_that_is_run_in_whatever_order_they_are_defined():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.first = nn.Linear(48, 8)

        def forward(self, x):
            return self.head(self.first(x.flatten(1)).relu())

    model, x = Classifier(Backwards(), Signature(channels=3, height=4, width=4, classes=2)), torch.rand(4, 3, 4, 4)
    exact = answers(model, x)
    for precision in ("fp32", "bf16"):
        torch.testing.assert_close(Fast(model, precision)(x), exact, rtol=0, atol=0.02)
