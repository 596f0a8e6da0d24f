"""The tables say what torch says of itself."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from overproof.bounds.words import ALIASES, FUNCTIONS, MODULES, SMOOTH, name_of, padding_of

from .networks import ForwardOf, uniform

# Without softplus, which is written in C++ and has no signature.
DOCUMENTED = ("leaky_relu", "elu", "celu", "hardtanh", "layer_norm", "rms_norm", "group_norm", "dropout")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_options_are_torch_s_in_its_order_with_its_defaults(name):
    (_, *given) = inspect.signature(getattr(F, name)).parameters.values()
    theirs = [(each.name, None if each.default is each.empty else each.default) for each in given]
    assert list(FUNCTIONS[name]) == [pair for pair in theirs if pair[0] != "inplace"]


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_a_module_has_the_attributes_that_are_read(kind):
    needed = {nn.LayerNorm: (4,), nn.RMSNorm: (4,), nn.GroupNorm: (2, 4), nn.Linear: (2, 3), nn.Conv2d: (1, 1, 1)}
    needed |= {nn.Fold: (2, 1)}
    needed |= dict.fromkeys((nn.Conv1d, nn.ConvTranspose2d), (1, 1, 1))
    pools = dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool2d), (2,))
    module = kind(*(needed | pools).get(kind, ()))
    name, attributes = MODULES[kind]
    assert name in FUNCTIONS or name in SMOOTH
    for attribute in attributes:
        getattr(module, attribute)


def test_names_that_mean_another_one_do():
    assert all(name in FUNCTIONS or name in SMOOTH or name == "pow 2" for name in ALIASES.values())


def nodes(forward, **modules):
    return list(fx.Tracer().trace(ForwardOf(forward, **modules)).nodes)


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda _, x: x.relu_(), "relu"),
        (lambda _, x: F.relu(x), "relu"),
        (lambda _, x: x + x, "add"),
        (lambda _, x: x.__add__(x), "add"),
        (lambda self, x: self.inner(x), ""),
    ],
)
def test_a_step_is_named_alike_however_it_is_written(forward, name):
    assert name_of(nodes(forward, inner=nn.ReLU())[1]) == name


PADDINGS = {
    "function": (lambda _, x: F.pad(x, (1, 2), "constant", 3.0), ((1, 2), "constant", 3.0)),
    "options": (lambda _, x: F.pad(x, pad=(1, 2), mode="reflect"), ((1, 2), "reflect", None)),
    "another step": (lambda _, x: x.relu(), (None, "", None)),
}


@pytest.mark.parametrize(("forward", "found"), PADDINGS.values(), ids=PADDINGS)
def test_a_padding_is_told(forward, found):
    assert padding_of(nodes(forward)[1], None, {}) == found


@pytest.mark.parametrize(
    ("module", "mode"),
    [(nn.ReflectionPad2d(1), "reflect"), (nn.ReplicationPad2d(1), "replicate"), (nn.ConstantPad2d(1, 2.0), "constant")],
)
def test_a_module_that_pads_is_a_padding(module, mode):
    node = nodes(lambda self, x: self.inner(x), inner=module)[1]
    margins, found, filled = padding_of(node, module, {})
    x = uniform(2, 2, 3, 3)
    given = {} if filled is None else {"value": filled}
    assert found == mode and torch.equal(F.pad(x, margins, found, **given), module(x))
