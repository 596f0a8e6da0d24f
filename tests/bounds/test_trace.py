"""A network is followed exactly, or refused in a sentence that says where."""

import re

import pytest
import torch
import torch.nn.functional as F
from benchmarks.soundness import question
from torch import nn

from overproof.bounds.crown import bound
from overproof.bounds.operators import Conv
from overproof.bounds.region import Region
from overproof.bounds.spec import logits
from overproof.bounds.trace import trace
from overproof.errors import InputError
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.classifier import Classifier
from overproof.signature import Signature

from .networks import ForwardOf, random_network, settled, uniform, value

SHAPE = (2, 4, 4)


def assert_followed(network, shape=SHAPE):
    """The graph computes what the network does, and is bounded like any other."""
    graph, x = trace(network, shape).graph(), uniform(3, *shape)
    with torch.no_grad():
        truth = network(x)
        torch.testing.assert_close(value(graph, x), truth, rtol=0, atol=1e-10)
        for method in ("ibp", "crown"):
            bounds = bound(graph, Region.around(x, 0.0), logits(3, graph.classes), method)
            torch.testing.assert_close(bounds.lower, truth, rtol=0, atol=1e-10)
            torch.testing.assert_close(bounds.upper, truth, rtol=0, atol=1e-10)


def ending(step, **modules):
    """Return a convolution, a step as a function, and a linear layer on whatever features that leaves."""

    def forward(self, x):
        return self.head(torch.flatten(step(self, self.conv(x)), 1))

    network = ForwardOf(forward, conv=nn.Conv2d(2, 4, 3, padding=1), head=nn.LazyLinear(3), **modules).double()
    network.eval()(uniform(2, *SHAPE))  # the head learns its size
    return settled(network)


FORMS = {
    "nothing": lambda _, x: x,
    "F.relu": lambda _, x: F.relu(x),
    "F.relu in place": lambda _, x: F.relu(x, inplace=True),
    "torch.relu": lambda _, x: torch.relu(x),
    "x.relu()": lambda _, x: x.relu(),
    "x.relu_()": lambda _, x: x.relu_(),
    "F.leaky_relu": lambda _, x: F.leaky_relu(x),
    "F.leaky_relu, slope": lambda _, x: F.leaky_relu(x, negative_slope=0.3),
    "F.max_pool2d": lambda _, x: F.max_pool2d(x, 2),
    "F.max_pool2d, options": lambda _, x: F.max_pool2d(x, 3, stride=(2, 1), padding=1),
    "torch.max_pool2d": lambda _, x: torch.max_pool2d(x, 2, 1),
    "F.avg_pool2d": lambda _, x: F.avg_pool2d(x, 2),
    "F.avg_pool2d, options": lambda _, x: F.avg_pool2d(x, (3, 2), stride=1, padding=1),
    "F.adaptive_avg_pool2d, a map that is not square": lambda _, x: F.adaptive_avg_pool2d(
        F.pad(x, (0, 5, 0, 0)), (2, 3)
    ),
    "F.adaptive_avg_pool2d": lambda _, x: F.adaptive_avg_pool2d(x, (2, 1)),
    "mean, list": lambda _, x: x.mean([2, 3]),
    "mean, from the end": lambda _, x: x.mean((-2, -1), keepdim=True),
    "torch.mean": lambda _, x: torch.mean(x, dim=(3, 2)),
    "x.flatten": lambda _, x: x.flatten(1),
    "view": lambda _, x: x.view(x.size(0), -1),
    "reshape, shape": lambda _, x: x.reshape(x.shape[0], -1),
    "view, -1": lambda _, x: x.view(-1, 64),
    "reshape to another map": lambda _, x: x.reshape(x.size(0), 8, 4, 2).relu(),
    "squeeze": lambda _, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "F.pad": lambda _, x: F.pad(x, (1, 0, 2, 1)),
    "F.pad, mode": lambda _, x: F.pad(x, (0, 1, 0, 1), mode="constant", value=0),
    "F.dropout in eval mode": lambda self, x: F.dropout(x, 0.5, training=self.training),
    "torch.cat": lambda _, x: torch.cat([x, F.relu(x)], dim=1),
    "torch.cat by position": lambda _, x: torch.cat((F.relu(x), x), 1),
    "torch.concat": lambda _, x: torch.concat([F.relu(x), x], dim=1),
    "x + y": lambda _, x: F.relu(x) + x,
    "x += y": lambda _, x: F.relu(x).__add__(x),
    "torch.add": lambda _, x: torch.add(x, F.relu(x)),
    "x + 0.1": lambda _, x: x + 0.1,
    "0.1 + x": lambda _, x: 0.1 + x,
    "x - 0.1": lambda _, x: x - 0.1,
    "0.1 - x": lambda _, x: 0.1 - x,
    "0.1 * x": lambda _, x: 0.1 * x,
    "x / 3": lambda _, x: x / 3,
    "-x": lambda _, x: -x,
    "contiguous": lambda _, x: x.contiguous(),
}


@pytest.mark.parametrize("step", FORMS.values(), ids=FORMS)
def test_functional_forms_are_followed(step):
    assert_followed(ending(step))


MODULES = {
    "BatchNorm2d": nn.BatchNorm2d(4),
    "BatchNorm2d without parameters": nn.BatchNorm2d(4, affine=False),
    "ReLU": nn.ReLU(inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "AvgPool2d": nn.AvgPool2d(2),
    "AvgPool2d, no padding to count": nn.AvgPool2d(2, count_include_pad=False),
    "AvgPool2d, options": nn.AvgPool2d((2, 3), stride=1, padding=(1, 0)),
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(2),
    "AdaptiveAvgPool2d, one side": nn.AdaptiveAvgPool2d((1, None)),
    "MaxPool2d": nn.MaxPool2d(2),
    "MaxPool2d, options": nn.MaxPool2d(3, stride=1, padding=1),
    "MaxPool2d, dilated": nn.MaxPool2d(2, stride=1, dilation=2),
    "ZeroPad2d": nn.ZeroPad2d((1, 2, 0, 1)),
    "Flatten": nn.Flatten(),
    "Identity": nn.Identity(),
    "Dropout": nn.Dropout(),
    "Dropout2d": nn.Dropout2d(),
    "Conv2d": nn.Conv2d(4, 3, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1)),
    "Conv2d without bias": nn.Conv2d(4, 3, 2, bias=False),
    "Conv2d in groups": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "Conv2d, same": nn.Conv2d(4, 3, 3, padding="same", dilation=2),
    "Conv2d, valid": nn.Conv2d(4, 3, 3, padding="valid"),
    "nested": nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1)),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_modules_are_followed(module):
    assert_followed(ending(lambda self, x: self.module(x), module=module))


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_are_followed(seed):
    assert_followed(*random_network(seed))


FAMILIES = (
    MLP(hidden=(6, 5)),
    ConvNet(channels=(2, 3), hidden=(5,)),
    ResNet(depth=20, width=0.25),
    PreActResNet(width=0.0625),
    PreActResNet(width=0.0625, shortcut="raw"),
    WideResNet(depth=10, width=1),
    MobileNetV2(width=0.1),
    VGG(depth=11, width=0.0625),
    PlainResNet(stem=3, channels=(4, 5), blocks=(1, 2), stride=(1, 2), hidden=(6,)),
)


@pytest.mark.parametrize("architecture", FAMILIES, ids=repr)
def test_every_family_with_piecewise_linear_activations_is_followed(architecture):
    signature = Signature(channels=3, height=8, width=8, classes=3)
    if isinstance(architecture, VGG | WideResNet | MobileNetV2):
        signature = Signature(channels=3, height=32, width=32, classes=3)
    torch.manual_seed(0)
    network = settled(Classifier(architecture.build(signature), signature, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)))
    shape = (signature.channels, signature.height, signature.width)
    graph, x = trace(network, shape).graph(), uniform(2, *shape)
    torch.testing.assert_close(value(graph, x), network(x), rtol=1e-9, atol=1e-9)


def test_a_family_with_smooth_activations_is_followed():
    signature = Signature(channels=3, height=32, width=32, classes=3)
    network = settled(DMWideResNet(depth=10, width=1).build(signature))
    graph, x = trace(network, (3, 32, 32)).graph(), uniform(2, 3, 32, 32)
    torch.testing.assert_close(value(graph, x), network(x), rtol=1e-9, atol=1e-9)


# --- either exact or refused ------------------------------------------------------------------------------------------


def unused_head(self, x):
    hidden = F.relu(self.conv(x)).flatten(1)
    z = self.head(hidden)
    self.other(hidden)  # an auxiliary head whose result nobody wants
    return z


def identity_between(self, x):
    hidden = self.conv(x)
    return self.head((F.relu(self.bn(self.identity(hidden))) + hidden).flatten(1))


def in_place_then_read(self, x):
    hidden = self.conv(x)
    return self.head((F.relu(hidden, inplace=True) + hidden).flatten(1))


def in_place_module_then_read(self, x):
    hidden = self.conv(x)
    return self.head((self.in_place(hidden) + hidden).flatten(1))


def in_place_sum_then_read(self, x):
    hidden = self.conv(x)
    total = hidden
    total += 1
    return self.head((total.relu() + hidden).flatten(1))


def both_halves(self, x):
    first, second = self.conv(x).chunk(2, dim=1)
    return self.head(torch.cat([second.relu(), first], dim=1).flatten(1))


def a_half_of_the_logits(self, x):
    first, _ = self.wide(self.conv(x).flatten(1)).chunk(2, dim=1)
    return first.relu()


def twice_the_same(self, x):
    return self.double_head(torch.cat([self.conv(x)] * 2, dim=1).flatten(1))


def cropped(self, x):
    return self.small_head(F.pad(self.conv(x), (-1, -1, -1, -1)).flatten(1))


def padded_with_ones(self, x):
    return self.head(F.pad(self.conv(x), (1, 1, 1, 1), value=1.0)[:, :, 1:-1, 1:-1].flatten(1))


def wider_constant(self, x):
    return self.head((self.conv(x).mean((2, 3), keepdim=True) + self.map).relu().flatten(1))


def constant_beside(self, x):
    return self.double_head(torch.cat([self.conv(x), self.map.expand(x.size(0), 4, 4, 4)], dim=1).flatten(1))


def across_the_batch(self, x):
    return self.half_head(self.conv(x).flatten(1).view(-1, 32)).view(-1, 6)


def mean_of_the_batch(self, x):
    hidden = self.conv(x)
    return self.head((hidden - hidden.mean(0, keepdim=True)).flatten(1))


def steep_leak(self, x):
    return self.head(F.leaky_relu(self.conv(x), 2.0).flatten(1))


def falling_leak(self, x):
    return self.head(F.leaky_relu(self.conv(x), -0.5).flatten(1))


def always_dropping(self, x):
    return self.head(F.dropout(self.conv(x), 0.5).flatten(1))


def doubled(self, x):
    hidden = self.conv(x)
    return self.head((hidden + hidden).flatten(1))


def squared(self, x):
    hidden = self.conv(x)
    return self.head((hidden * hidden).flatten(1))


def with_features(self, x):
    hidden = self.conv(x).flatten(1)
    return self.head(hidden), hidden


def in_a_dictionary(self, x):
    return {"logits": self.head(self.conv(x).flatten(1))}


def of_the_image_s_size(self, x):
    return self.head(self.conv(x).flatten(1)) * x.size(1)


def every_other_line(self, x):
    return self.half_head(self.conv(x)[:, :, ::2].flatten(1))


TRICKS = (
    unused_head,
    identity_between,
    in_place_then_read,
    in_place_module_then_read,
    in_place_sum_then_read,
    both_halves,
    a_half_of_the_logits,
    twice_the_same,
    cropped,
    padded_with_ones,
    wider_constant,
    constant_beside,
    across_the_batch,
    mean_of_the_batch,
    always_dropping,
    doubled,
    squared,
    with_features,
    in_a_dictionary,
    of_the_image_s_size,
    every_other_line,
    steep_leak,
    falling_leak,
)


def tricky(forward):
    modules = {
        "conv": nn.Conv2d(2, 4, 3, padding=1),
        "bn": nn.BatchNorm2d(4),
        "identity": nn.Identity(),
        "in_place": nn.ReLU(inplace=True),
        "head": nn.Linear(64, 3),
        "other": nn.Linear(64, 3),
        "wide": nn.Linear(64, 6),
        "double_head": nn.Linear(128, 3),
        "half_head": nn.Linear(32, 3),
        "small_head": nn.Linear(16, 3),
    }
    network = ForwardOf(forward, **modules)
    network.register_buffer("map", uniform(4, 4, 4))
    return settled(network)


@pytest.mark.parametrize("forward", TRICKS, ids=lambda forward: forward.__name__)
def test_a_network_is_followed_exactly_or_refused(forward):
    """What a trace could get wrong without anybody noticing."""
    network = tricky(forward)
    try:
        trace(network, SHAPE)
    except InputError as refusal:
        assert "\n" not in str(refusal)
        return
    assert_followed(network)


@pytest.mark.parametrize("leak", [-0.5, 2.0])
def test_a_leak_for_which_no_line_holds_is_refused(leak):
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.LeakyReLU(leak), nn.Linear(4, 3)))
    with pytest.raises(InputError, match=r"^2: .*LeakyReLU"):
        trace(network, SHAPE)


# --- live parameters --------------------------------------------------------------------------------------------------


def test_a_graph_sees_the_parameters_as_they_are_now():
    network, shape = random_network(4)
    traced, x = trace(network, shape), uniform(3, *shape)
    before = network(x)
    with torch.no_grad():
        for tensor in (*network.parameters(), *(b for b in network.buffers() if b.dtype.is_floating_point)):
            tensor.mul_(1.1).add_(0.05)
    assert not torch.allclose(network(x), before, atol=1e-2)
    torch.testing.assert_close(value(traced.graph(), x), network(x), rtol=0, atol=1e-10)


SCALES = {
    "as it is": (lambda self, x: x * self.scale, (1, 4, 1, 1)),
    "viewed": (lambda self, x: x * self.scale.view(1, -1, 1, 1), (4,)),
    "computed": (lambda self, x: x * self.scale.exp(), (1, 4, 1, 1)),
    "a sum": (lambda self, x: x + (self.scale * self.scale).sum(), (4,)),
}


@pytest.mark.parametrize(("step", "size"), SCALES.values(), ids=SCALES)
def test_a_parameter_in_the_forward_is_live_too(step, size):
    """Its value when the graph is made, and its gradient."""
    network = ending(step, scale=nn.Parameter(torch.ones(size)))
    traced, x = trace(network, SHAPE), uniform(3, *SHAPE)
    with torch.no_grad():
        network.scale.add_(uniform(*size))
    torch.testing.assert_close(value(traced.graph(), x), network(x), rtol=0, atol=1e-10)
    (found,) = torch.autograd.grad(value(traced.graph(), x).sum(), network.scale)
    (truth,) = torch.autograd.grad(network(x).sum(), network.scale)
    torch.testing.assert_close(found, truth)


def test_gradients_reach_every_parameter():
    network, shape = random_network(5)
    network.requires_grad_()
    x = uniform(3, *shape)
    traced = trace(network, shape)
    assert all(parameter.grad is None for parameter in network.parameters())
    parameters = list(network.parameters())
    found = torch.autograd.grad(value(traced.graph(), x).square().sum(), parameters, allow_unused=True)
    truth = torch.autograd.grad(network(x).square().sum(), parameters, allow_unused=True)
    assert any(slope is not None for slope in truth)
    for mine, theirs in zip(found, truth, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


def test_a_trace_leaves_modes_and_statistics_as_they_were(tiny_classifier):
    network = tiny_classifier()
    network.backbone[1].eval()
    modes = [module.training for module in network.modules()]
    statistics = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, (3, 8, 8)).graph(running=True)
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in network.state_dict().items())


def in_an_attribute(self, hidden):
    self.kept = hidden


def in_a_buffer(self, hidden):
    self.buffer = hidden


def in_a_buffer_in_place(self, hidden):
    self.buffer += hidden.mean()  # of the batch, but no part of the logits


def in_a_list(self, hidden):
    self.listed.append(hidden)


def in_a_dictionary(self, hidden):
    self.named["hidden"] = hidden


def in_a_submodule(self, hidden):
    self.conv.kept = {"hidden": [hidden]}


STORES = (in_an_attribute, in_a_buffer, in_a_buffer_in_place, in_a_list, in_a_dictionary, in_a_submodule)


def storing(step):
    modules = {"conv": nn.Conv2d(2, 4, 3, padding=1), "head": nn.Linear(64, 3)}
    network = settled(ForwardOf(lambda self, x: self.head(step(self, self.conv(x)).flatten(1)), **modules))
    network.register_buffer("buffer", torch.zeros((), dtype=torch.float64))
    network.kept, network.listed, network.named = None, [], {}
    return network


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.__name__)
def test_what_a_network_stores_in_itself_is_taken_back(store):
    def step(self, hidden):
        store(self, hidden)
        return hidden.relu()

    network = storing(step)
    traced = trace(network, SHAPE)
    assert (network.kept, network.listed, network.named) == (None, [], {})
    assert network.buffer.item() == 0
    assert set(dict(network.named_buffers())) == {"buffer"}
    assert not hasattr(network.conv, "kept")
    x = uniform(3, *SHAPE)
    torch.testing.assert_close(value(traced.graph(), x), network(x), rtol=0, atol=1e-10)


def test_a_trace_that_fails_takes_back_what_was_stored():
    def step(self, hidden):
        self.kept = hidden
        return hidden.relu() if hidden.sum() > 0 else hidden

    network = storing(step)
    with pytest.raises(InputError, match="bounds cannot follow"):
        trace(network, SHAPE)
    assert network.kept is None


def test_a_network_that_counts_its_calls_is_refused():
    def step(self, hidden):
        self.buffer += 1
        return hidden * self.buffer

    with pytest.raises(InputError, match="it keeps values from one call to the next"):
        trace(storing(step), SHAPE)


def test_the_shape_of_the_image_may_be_any_the_network_takes():
    network = settled(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    )
    for shape in ((1, 5, 9), (1, 3, 3)):
        assert_followed(network, shape)


def test_a_place_is_named_as_its_module_is():
    network = settled(nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(8, 3)))
    graph = trace(network, SHAPE).graph()
    assert [node.place for node in graph.nodes] == ["image", "0.0", "0.1", "1", "2"]
    assert isinstance(graph.nodes[1].operator, Conv)


# --- what is refused --------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """``layer1.act`` is whatever it is given."""

    def __init__(self, act):
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.layer1.act = act
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.layer1(x).flatten(1))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Hardshrink(), "Hardshrink"),
        (nn.Softsign(), "Softsign"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "Conv2d with circular padding"),
        (nn.Conv2d(4, 4, 2, padding="same"), "Conv2d with one-sided padding"),
        (nn.Softplus(beta=-1.0), "softplus with beta -1"),
        (nn.ELU(-1.0), "elu with alpha -1"),
    ],
)
def test_an_operator_without_bounds_is_named_with_its_place(module, kind):
    with pytest.raises(InputError, match=rf"^layer1\.act: no bounds for {kind}.*; supported are Conv2d") as refusal:
        trace(settled(Named(module)), SHAPE)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda _, x: torch.sin(x), "sin: no bounds for sin"),
        (lambda _, x: torch.hypot(x, -x), "hypot: no bounds for hypot"),
        (lambda _, x: x.amax(0), "amax: no bounds for amax over the batch"),
        (lambda _, x: x.softmax(0), "softmax: no bounds for softmax over the batch"),
        (lambda _, x: x.mean((0, 2)), "mean: no bounds for mean over the batch"),
        (lambda _, x: x.mean((1, 2, 3)).view(-1, 1), "mean: no bounds for mean, one number for an image"),
        (lambda _, x: x.mean((2, 3), dtype=torch.float32).double(), "mean: no bounds for a mean in another precision"),
        (lambda _, x: x.softmax(1, dtype=torch.float32).double(), "no bounds for a softmax in another precision"),
        (lambda _, x: torch.add(x, F.relu(x), alpha=2), "add: no bounds for add with options"),
        (lambda _, x: x.pow(4), "no bounds for a power of 4"),
        (lambda _, x: x.clamp(1.0, -1.0), "clamp: no bounds for clamp to [1, -1]"),
        (lambda _, x: x.flip(0), "flip: no bounds for a step that mixes the batch"),
        (lambda _, x: x.view(2, -1, 4)[:1].expand(3, -1, -1), "a step that mixes the batch"),
        (lambda _, x: torch.einsum("bchw,dchw->bd", x, x), "einsum: no bounds for a step that mixes the batch"),
        (lambda _, x: torch.einsum("bcii->bci", x), "einsum: no bounds for a diagonal"),
        (lambda _, x: torch.where(x > 0, x, 0.1 * x), "gt: no bounds for gt"),
        (
            lambda _, x: F.scaled_dot_product_attention(x, x, x, x),
            "no bounds for attention to constants, or with a mask made",
        ),
        (lambda _, x: x.norm(p=1, dim=1), "no bounds for a norm other than the Euclidean one"),
        (lambda _, x: F.normalize(x, p=1.0), "no bounds for normalize with another norm"),
        (lambda _, x: x.var(0), "no bounds for var over the batch"),
        (lambda _, x: F.adaptive_max_pool2d(x, 3), "no bounds for adaptive max pooling to a size that does not divide"),
        (lambda _, x: F.pad(x, (1, 1, 1, 1), value=-torch.inf).sigmoid(), "no bounds for padding with infinity"),
        (lambda _, x: x * torch.arange(2.0).view(2, 1, 1, 1), "mul: no bounds for another constant for each image"),
    ],
)
def test_a_function_without_bounds_is_named(step, words):
    with pytest.raises(InputError, match=re.escape(words)) as refusal:
        trace(ending(step), SHAPE)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "step",
    [lambda self, x: self.act(x) + x, lambda _, x: F.relu(x, inplace=True) + x, lambda _, x: x.relu_() + x],
    ids=["a module", "an option", "a method"],
)
def test_a_value_that_is_read_after_a_step_in_place_is_what_that_gave(step):
    assert_followed(ending(step, act=nn.ReLU(inplace=True)))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1)),
        lambda self, x: self.head(sum(part for part in x).flatten(1)),
    ],
    ids=["a condition", "a loop"],
)
def test_a_course_that_depends_on_the_image_is_refused_in_a_sentence(forward):
    with pytest.raises(InputError, match=r"^bounds cannot follow ForwardOf: ") as refusal:
        trace(settled(ForwardOf(forward, head=nn.Linear(32, 3))), SHAPE)
    assert "\n" not in str(refusal.value)


def test_a_batch_norm_in_train_mode_is_refused_unless_it_is_meant(tiny_classifier):
    network = tiny_classifier(dtype=torch.float64)
    network.backbone[4].eval()
    traced, x = trace(network, (3, 8, 8)), uniform(3, 3, 8, 8)
    with pytest.raises(InputError, match=r"^1: this BatchNorm is in train mode.*use eval\(\)$"):
        traced.graph()
    running = value(traced.graph(running=True), x)
    torch.testing.assert_close(running, network.eval()(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(value(traced.graph(), x), running)


def test_a_dropout_in_train_mode_is_refused_unless_it_is_meant():
    """Like BatchNorm: the network itself would compute something else."""
    network = settled(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(32, 3))).train()
    traced = trace(network, SHAPE)
    with pytest.raises(InputError, match=r"^1: .*train mode"):
        traced.graph()
    x = uniform(3, *SHAPE)
    torch.testing.assert_close(value(traced.graph(running=True), x), network.eval()(x))


def test_a_batch_norm_without_running_statistics_is_refused():
    network = settled(nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False)))
    network[1].running_mean = network[1].running_var = None
    with pytest.raises(InputError, match=r"^1: this BatchNorm has no running statistics"):
        trace(network, SHAPE)


def test_an_image_that_does_not_fit_is_refused_in_a_sentence():
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    with pytest.raises(InputError, match="5") as refusal:
        trace(network, (2, 5, 5))
    assert "\n" not in str(refusal.value)


def test_logits_that_cancel_to_nothing_but_rounding_are_no_reason_to_refuse():
    """A sum of two images and of one may be rounded differently, and here nothing else is left of the logits."""
    asked = question(4428)  # a ReLU that never opens, and a bias that takes off what comes behind it
    with torch.no_grad():
        assert asked.network(torch.rand(3, *asked.image.shape[1:], dtype=torch.float64)).abs().max() < 1e-14
    assert trace(asked.network, tuple(asked.image.shape[1:])).graph().classes == 1


@pytest.mark.parametrize("where", ["a step", "the forward"])
def test_where_memory_runs_out_is_a_sentence_of_its_own(where):
    class Hungry(nn.Module):
        def forward(self, x):
            if where == "the forward":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return torch.ones(2**50) + x.flatten(1).sum(dim=1, keepdim=True)

    with pytest.raises(InputError, match=r"^Hungry: there is not enough memory to follow it on images of 2x4x4$"):
        trace(Hungry(), (2, 4, 4))
