"""Fused, a network answers as in eval mode, gradients to the pixels included; afterwards nothing has happened."""

from copy import deepcopy

import pytest
import torch
from tests.contracts.every_model import SIGNATURE, SMALL
from torch import nn

from overproof.attacks.objectives import Misclassification
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.resnet import ResNet
from overproof.models.classifier import Classifier
from overproof.models.inference.fused import fused_for_attack
from overproof.models.layout import lay_out
from overproof.models.mode import in_mode

FAMILIES = [one for one in SMALL if not isinstance(one, MLP)]
every_family = pytest.mark.parametrize("architecture", FAMILIES, ids=repr)


def stirred(model):
    """Move the weights and every BatchNorm's statistics, in place, as training does."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def classifier(architecture):
    return stirred(Classifier(architecture.build(SIGNATURE), SIGNATURE, mean=(0.5,) * 3, std=(0.25,) * 3)).train()


def answers(model, x):
    """Return logits and the gradient of their squares' sum with respect to the pixels."""
    point = x.clone().requires_grad_()
    logits = model(point)
    return logits.detach(), *torch.autograd.grad(logits.square().sum(), point)


def compare(model, x, near):
    """Assert that fused it answers as in eval mode, its other form being asked."""
    with in_mode(model, training=False):
        wanted = answers(model, x)
    with fused_for_attack(model):
        assert model.fused_form is not None
        found = answers(model, x)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= near * other.norm()
        assert other.norm() > 0


@every_family
def test_logits_and_gradients_are_those_of_eval_mode(architecture):
    model = classifier(architecture).double()
    compare(model, torch.rand(4, 3, 16, 16, dtype=torch.float64), 1e-12)
    stirred(model)  # what was folded before is not what is asked now
    compare(model, torch.rand(4, 3, 16, 16, dtype=torch.float64), 1e-12)


@every_family
def test_so_they_are_in_channels_last_and_in_bf16(architecture):
    model, x = classifier(architecture), torch.rand(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    lay_out(torch.channels_last, model)
    compare(model, x, 1e-5)
    with in_mode(model, training=False):
        exact, _ = answers(model, x)
    with torch.autocast("cpu", torch.bfloat16), fused_for_attack(model):
        rough, gradient = answers(model, x)
    assert 0 < (rough - exact).norm() <= 2e-2 * exact.norm()
    assert gradient.dtype == torch.float32


@every_family
def test_afterwards_nothing_has_happened(architecture, modes):
    model = classifier(architecture)
    next(model.backbone.children()).eval()
    was, names, state = modes(model), [name for name, _ in model.named_modules()], deepcopy(model.state_dict())
    with pytest.raises(KeyError), fused_for_attack(model):
        model(torch.rand(2, 3, 16, 16)).sum().backward()
        raise KeyError
    assert modes(model) == was and model.fused_form is None
    assert [name for name, _ in model.named_modules()] == names
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


@every_family
def test_a_copy_is_a_network_of_its_own(architecture):
    model = classifier(architecture)
    with fused_for_attack(model):
        pass
    copy = stirred(deepcopy(model))
    compare(copy, torch.rand(2, 3, 16, 16), 1e-4)
    compare(model, torch.rand(2, 3, 16, 16), 1e-4)


class Wrapped(nn.Module):
    """A network around another, as a witness is."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


def test_networks_inside_others_are_held_too():
    model = classifier(ResNet(depth=20, width=0.5))
    with fused_for_attack(Wrapped(model)):
        assert model.fused_form is not None and not model.training
        with fused_for_attack(model):
            inner = model.fused_form
        assert model.fused_form is inner
    assert model.fused_form is None and model.training


class Crooked(nn.Module):
    """A forward pass that no trace can follow, and one whose convolution is nobody's to replace."""

    def __init__(self, *, traced):
        super().__init__()
        self.traced = traced
        self.shift = nn.Parameter(torch.zeros(()))
        self.convolution = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 7)

    def forward(self, x):
        if not self.traced and x.sum() > 1e9:
            return x
        x = self.norm(self.convolution(x)).mean((2, 3))
        return self.head(x)


@pytest.mark.parametrize(
    "backbone", [MLP(hidden=(12,)).build(SIGNATURE), Crooked(traced=False), Crooked(traced=True)], ids=repr
)
def test_what_cannot_be_folded_answers_itself(backbone):
    model, x = stirred(Classifier(backbone, SIGNATURE)).train(), torch.rand(2, 3, 16, 16)
    with in_mode(model, training=False):
        wanted = answers(model, x)
    with fused_for_attack(model):
        assert model.fused_form is None
        assert all(map(torch.equal, answers(model, x), wanted))


class Shifted(nn.Module):
    """A network with a tensor of its own between its layers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.ones(()))
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)

    def forward(self, x):
        return self.head((self.convolution(x) + self.shift).mean((2, 3)))


def test_tensors_that_may_be_replaced_behind_its_back_are_not_copied():
    model = Classifier(Shifted(), SIGNATURE)
    with fused_for_attack(model):
        assert model.fused_form is None


def test_what_is_compiled_is_left_to_the_compiler():
    model = classifier(ResNet(depth=20, width=0.5))
    model.compile(backend="eager")
    with fused_for_attack(model):
        assert model.fused_form is None and not model.training


def test_searches_in_training_hold_the_network_still_and_evaluations_do_not():
    model, x, y = classifier(ResNet(depth=20, width=0.5)), torch.rand(4, 3, 16, 16), torch.arange(4)
    seen = []

    def objective(point):
        seen.append(model.fused_form is not None)
        return cross_entropy(model(point), y)

    PGD(steps=2)(model, x, objective)
    assert seen == [True, True]
    PGD(steps=2, mode="train")(model, x, objective)
    assert seen[2:] == [False, False]

    def logits(point):
        seen.append(model.fused_form is not None)
        return model(point)

    PGD(steps=2)(model, x, Misclassification.on(logits, y))
    assert len(seen) > 4 and not any(seen[4:])
