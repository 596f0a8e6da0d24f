"""Every test of the contract can fail: for each there is an attack with the fault that it is there for."""

import inspect
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from overproof.attacks import BaseAttack, Length, NormField
from overproof.models.mode import in_mode
from overproof.testing import AttackContract
from overproof.testing.attacks import BALLS, in_balls
from overproof.testing.toys import tiny_classifier


@dataclass(frozen=True, kw_only=True)
class Sound(BaseAttack):
    """One step along the signs of the gradient, and without a fault."""

    kind: str = "sound"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    needs_goal: ClassVar[bool] = False

    def search(self, model, x, objective):
        with in_mode(model, training=False), torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(objective(point).sum(), point)
        return self.end(x, slope)

    def end(self, x, slope):
        return (x + self.eps * slope.sign()).clamp(0, 1).detach()


class TooFar(Sound):
    def end(self, x, slope):
        return x + 2 * self.eps * slope.sign()


class GivesBack(Sound):
    def end(self, x, slope):
        return x.detach().clone()


class Chance(Sound):
    def end(self, x, slope):
        draws = torch.Generator()
        draws.seed()
        return (x + self.eps * (2 * torch.rand(x.shape, generator=draws, dtype=x.dtype) - 1)).clamp(0, 1).detach()


class Graph(Sound):
    def end(self, x, slope):
        return super().end(x, slope).requires_grad_()


class Writes(Sound):
    def search(self, model, x, objective):
        with torch.no_grad():
            next(model.parameters()).mul_(1.1)
        return super().search(model, x, objective)


class LeavesEval(Sound):
    def search(self, model, x, objective):
        model.eval()
        return super().search(model, x, objective)


class NoGradient(Sound):
    def search(self, model, x, objective):
        point = x.detach().clone().requires_grad_()
        with in_mode(model, training=False):
            (slope,) = torch.autograd.grad(objective(point).sum(), point)
        return self.end(x, slope)


class Single(Sound):
    def end(self, x, slope):
        return super().end(x.float(), slope.float())


class Mean(Sound):
    def end(self, x, slope):
        return super().end(x, slope - slope.mean(dim=0)) if len(x) > 1 else super().end(x, slope) * float("nan")


class Divides(Sound):
    def end(self, x, slope):
        return super().end(x, slope / slope.abs().amax()) + 0 * (slope / slope.abs().amax())


class AsksNobody(Sound):
    def search(self, model, x, objective):
        return x.detach().clone()


class Goals(Sound):
    def search(self, model, x, objective):
        return super().search(model, x, objective.score and objective)


@dataclass(frozen=True, kw_only=True)
class Forgets(Sound):
    kind: str = "forgets"

    def __eq__(self, other):
        return self is other

    __hash__ = Sound.__hash__


FAULTS = {
    "test_the_result_is_an_image_inside_the_ball_and_all_else_is_as_before": (TooFar, Graph, Writes, LeavesEval),
    "test_the_seed_decides_the_result": (Chance,),
    "test_a_frozen_model_can_be_attacked_where_gradients_are_switched_off": (NoGradient, Chance),
    "test_it_makes_images_worse_where_there_is_room": (GivesBack,),
    "test_float64_and_a_single_example_work": (Single, Mean),
    "test_other_scores_may_be_maximised": (TooFar,),
    "test_a_flat_network_does_no_harm": (Divides, AsksNobody),
    "test_labels_are_enough": (Goals, TooFar),
    "test_a_recipe_rebuilds_it": (Forgets,),
}
TESTS = [name for name in vars(AttackContract) if name.startswith("test_")]


def tried(name, attack):
    test = getattr(AttackContract, name)
    network = tiny_classifier()
    network.backbone[1].eval()
    given = {"attack": attack, "model": network}
    test(AttackContract(), **{key: given[key] for key in list(inspect.signature(test).parameters)[1:]})


def test_every_test_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_a_sound_attack_passes(name):
    tried(name, Sound())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_fault_is_found(name, fault):
    with pytest.raises((AssertionError, RuntimeError, ValueError, AttributeError)):
        tried(name, fault())


def test_an_attack_meets_the_balls_that_it_is_defined_for():
    found = in_balls({"sound": Sound()}, lambda attack, threat: threat.startswith("linf"))
    assert [one.id for one in found] == ["sound-linf", "sound-linf-large"]
    assert found[1].values[0] == replace(Sound(), norm="linf", eps=BALLS["linf-large"][1])
