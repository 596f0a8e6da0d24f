"""Halving boxes proves the exact minimum of tiny networks, never more, and stops where it says that it does."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from overproof.bounds import halving
from overproof.bounds.halving import halve
from overproof.bounds.region import Bounds, Region
from overproof.bounds.trace import trace

from .networks import normal, random_network, reached
from .test_crown import least_of_patterns, tiny

every_tiny = pytest.mark.parametrize(("seed", "widths"), [(0, (1, 6)), (1, (2, 6)), (2, (2, 4, 3)), (4, (3, 3, 3))])


def box_of(shape, seed=0):
    lower = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5
    return Bounds(lower, lower + 0.8)


def proof_of(network, box, spec, *, goal=-math.inf, seconds=60.0):
    graph = trace(network, tuple(box.lower.shape[1:])).graph()
    return halve(graph, box, spec, lambda rows: -rows.amin(dim=1), goal=goal, seconds=seconds)


@every_tiny
def test_a_goal_just_above_the_exact_worth_is_reached_and_one_below_is_not(seed, widths):
    network, shape = tiny(seed, widths)
    box, spec = box_of(shape, seed), normal(2, 2, seed=seed)
    exact = min(least_of_patterns(network, Region(box), row) for row in spec)
    above = proof_of(network, box, spec, goal=-exact + 0.01)
    assert above.finished and -exact - 1e-7 <= above.worst <= -exact + 0.01
    below = proof_of(network, box, spec, goal=-exact - 0.01, seconds=0.5)
    assert not below.finished and below.worst >= -exact - 1e-7


@pytest.mark.parametrize("seed", range(6))
def test_residual_and_pooled_networks_are_never_cut(monkeypatch, seed):
    clock = itertools.count()
    monkeypatch.setattr(halving, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    network, shape = random_network(seed)
    region = Region.around(torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)).double(), 0.1)
    spec = normal(2, trace(network, shape).graph().classes, seed=seed)
    proof = proof_of(network, region.box, spec, seconds=3)
    assert -proof.worst <= reached(network, region, spec[None], count=300).lower[0].min() + 1e-9
    assert proof.parts > 1


def test_without_time_the_whole_is_bounded_once():
    network, shape = tiny(1, (2, 6))
    proof = proof_of(network, box_of(shape), normal(1, 2), seconds=0.0)
    assert (proof.parts, proof.finished) == (1, False)


def test_a_point_cannot_be_halved():
    """Where no number lies between the sides, the box is as it is, and that is said to be all."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().requires_grad_(False)
    point = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    spec = torch.tensor([[1.0, 0.0]]).double()
    proof = proof_of(network, Bounds(point, point), spec)
    assert (proof.parts, proof.finished) == (1, True)
    assert -proof.worst == pytest.approx(float(network(point)[0, 0]))
    beside = torch.nextafter(point, torch.ones(()).double())
    assert proof_of(network, Bounds(point, beside), spec).finished
