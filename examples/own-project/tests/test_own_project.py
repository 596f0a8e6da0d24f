import pytest
import torch
from own_project.attacks import Corners, bare_hands
from own_project.augmentations import Noise
from own_project.data import Bars
from own_project.methods import OneTarget
from own_project.students import Tiny

from overproof.attacks import Threat
from overproof.testing import (
    ArchitectureContract,
    AttackContract,
    AugmentContract,
    MethodContract,
    SourceContract,
    make_step,
)


class TestTiny(ArchitectureContract):
    make = Tiny


class TestOneTarget(MethodContract):
    make = OneTarget


class TestCorners(AttackContract):
    make = Corners
    norms = ("linf",)


class TestBars(SourceContract):
    make = Bars


class TestNoise(AugmentContract):
    make = Noise


def test_the_loss_is_the_formula():
    method = OneTarget(alpha=0.25)
    step = make_step(method)
    (terms,) = method.losses(step)
    target = 0.25 * step.teachers["robust"](step.x).softmax(1) + 0.75 * torch.eye(4)[step.y]
    clean = -(target * step.student(step.x).log_softmax(1)).sum(1).mean()
    assert terms["adv"] > clean  # the images are adversarial


def test_what_is_no_option():
    with pytest.raises(ValueError, match="alpha is a share"):
        OneTarget(alpha=2)
    with pytest.raises(ValueError, match="corners is defined for linf, not for l2"):
        Corners(norm="l2")


def test_the_suite_has_the_radius_that_is_asked_for():
    first, _ = bare_hands(Threat(eps="1/255")).attacks
    assert str(first.attack.eps) == "1/255"
