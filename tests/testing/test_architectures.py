"""Every test of the contract can fail: for each there is an architecture with the fault that it is there for."""

import inspect
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from overproof.models import MLP, Architecture
from overproof.models.external.module import External
from overproof.testing import ArchitectureContract


class Net(nn.Module):
    def __init__(self, signature):
        super().__init__()
        self.first = nn.Conv2d(signature.channels, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * (signature.height // 2) * (signature.width // 2), signature.classes)

    def forward(self, x):
        return self.head(self.norm(self.first(x)).relu().flatten(1))


@dataclass(frozen=True, kw_only=True)
class Sound(Architecture):
    kind: str = "sound"
    net: str = "Net"

    def build(self, signature):
        return globals()[self.net](signature)


class TooMany(Net):
    def forward(self, x):
        return torch.cat([super().forward(x)] * 2, dim=1)


class NoNumber(Net):
    def forward(self, x):
        return super().forward(x) + self.norm(self.first(x)).amax(dim=(1, 2, 3))[:, None] * float("nan")


class NoLinearLayer(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.head = nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), nn.LazyConv2d(signature.classes, 1), nn.Flatten())


class Breaks(Net):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


class SeesOthers(Net):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


class SeesMemory(Net):
    def forward(self, x):
        return super().forward(x * (2 if x.is_contiguous() else 1))


class Overflows(Net):
    def forward(self, x):
        found = super().forward(x)
        return found * (torch.tensor(1e30) ** 2 if found.dtype == torch.bfloat16 else 1)


class Idle(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.idle = nn.Parameter(torch.ones(3))


class Draws(Net):
    def __init__(self, signature):
        super().__init__(signature)
        draws = torch.Generator()
        draws.seed()
        nn.init.normal_(self.head.weight, generator=draws)


@dataclass(frozen=True, kw_only=True)
class Changes(Sound):
    kind: str = "changes"

    def __eq__(self, other):
        return self is other

    __hash__ = Sound.__hash__


FAULTS = {
    "test_it_maps_images_to_logits": (TooMany, NoNumber),
    "test_a_recipe_says_which_it_is": (Changes,),
    "test_its_representation_leads_to_the_logits": (NoLinearLayer,),
    "test_compiles_without_a_graph_break": (Breaks,),
    "test_an_example_does_not_see_the_rest_of_its_batch_in_eval_mode": (SeesOthers,),
    "test_channels_last_changes_nothing": (SeesMemory,),
    "test_bf16_autocast_is_finite": (Overflows,),
    "test_gradient_reaches_the_image_and_every_parameter": (Idle,),
    "test_the_seed_decides_the_weights": (Draws,),
}
TESTS = [name for name in vars(ArchitectureContract) if name.startswith("test_")]


def tried(name, architecture):
    test, contract = getattr(ArchitectureContract, name), ArchitectureContract()
    torch.manual_seed(0)
    given = {"architecture": architecture, "training": False, "x": torch.rand(4, 3, 16, 16)}
    needed = list(inspect.signature(test).parameters)[1:]
    if "network" in needed:
        given["network"] = architecture.build(contract.signature).eval()
    test(contract, **{key: given[key] for key in needed})


def of(fault):
    return Sound(net=fault.__name__) if issubclass(fault, nn.Module) else fault()


def test_every_test_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("architecture", [Sound(), MLP(hidden=(5,))], ids=["other", "ours"])
def test_a_sound_architecture_passes(name, architecture):
    tried(name, architecture)


def test_a_network_of_other_peoples_code_passes_too():
    tried("test_a_recipe_says_which_it_is", External(factory="a.b:c", options={"width": 3}))


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_fault_is_found(name, fault):
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        tried(name, of(fault))
