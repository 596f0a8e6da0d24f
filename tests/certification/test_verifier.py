"""Queries are decided as exact enumeration decides them, and only what was confirmed is ``sat``."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from overproof.bounds.region import Bounds, Region, outward
from overproof.bounds.trace import trace
from overproof.certification import falsifier, verifier
from overproof.certification.query import Case
from overproof.certification.verifier import verify

from ..bounds.test_crown import least_of_patterns, tiny

SECONDS = 60.0  # far more than these take


def whatever(number, x):
    return True


def decided(network, shape, cases, confirm=whatever, seconds=SECONDS, dtype=torch.float32):
    graph = trace(deepcopy(network).to(dtype), shape).graph()  # whose numbers are the network's own
    return verify(network.float(), graph, cases, seconds=seconds, confirm=confirm)


def query(seed, widths, share, rows=1):
    """Return a network and a case whose threshold lies between the exact maximum of its row and far above it."""
    network, shape = tiny(seed, widths)
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    upper = lower + 0.8
    row = torch.randn(1, 2, generator=generator, dtype=torch.float64)
    most = -least_of_patterns(network, Region(Bounds(lower[None], upper[None])), -row[0])
    return network, shape, Case(lower, upper, row, torch.tensor([share - most], dtype=torch.float64))


@pytest.mark.parametrize("few", [0, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("seed", "widths"), [(0, (2, 5)), (1, (2, 5)), (2, (3, 6)), (3, (3, 6)), (4, (3, 4, 3)), (5, (3, 4, 3))]
)
def test_what_enumeration_says(monkeypatch, seed, widths, dtype, few):
    """The row attains its maximum somewhere: a little below there is a counter-example, a little above none."""
    monkeypatch.setattr(verifier, "_FEW", few)
    for share, decision in ((0.02, "sat"), (-0.02, "unsat")):
        network, shape, case = query(seed, widths, share)
        answer = decided(network, shape, [case], dtype=dtype)
        assert answer.decision == decision
        if decision == "sat":
            assert answer.case == 0
            assert (answer.witness.double() >= case.lower).all() and (answer.witness.double() <= case.upper).all()
            outputs = network(answer.witness[None])[0].double()
            assert (case.weight @ outputs + case.bias >= 0).all()


def test_one_of_several_cases_will_do():
    network, shape, none = query(0, (3, 6), -0.02)
    _, _, some = query(0, (3, 6), 0.02)
    assert decided(network, shape, [none, some]).case == 1
    assert decided(network, shape, [none, none]).decision == "unsat"


def test_cases_of_different_boxes():
    network, shape, case = query(1, (3, 6), -0.02)
    beside = Case(case.lower + 0.1, case.upper + 0.1, case.weight, case.bias)
    network.double()
    exact = -least_of_patterns(network, Region(Bounds(beside.lower[None], beside.upper[None])), -case.weight[0])
    answer = decided(network, shape, [case, beside])
    assert answer.decision == ("sat" if exact + float(case.bias) > 0 else "unsat")


@pytest.mark.parametrize("seed", range(6))
def test_every_row_of_a_case_must_hold(seed):
    """Two rows of which either can be met, and both together or not: as a fine grid over two inputs says."""
    network, shape = tiny(seed, (2, 5))
    lower, upper = torch.full(shape, -1.0).double(), torch.full(shape, 1.0).double()
    axis = torch.linspace(-1, 1, 401).double()
    grid = torch.cartesian_prod(axis, axis).view(-1, *shape)
    outputs = network(grid)
    weight = torch.eye(2).double()
    for gap in (0.2, -0.2):
        # Both logits at least ``top + gap``, where the smaller of them is nowhere above ``top``.
        bias = torch.full((2,), -float(outputs.amin(dim=1).max()) - gap).double()
        case = Case(lower, upper, weight, bias)
        assert decided(network, shape, [case]).decision == ("unsat" if gap > 0 else "sat")


def test_nothing_is_believed_that_was_not_confirmed():
    network, shape, case = query(0, (3, 6), 0.02)
    asked = []

    def denied(number, x):
        asked.append((number, x))
        return False

    answer = decided(network, shape, [case], confirm=denied, seconds=0.5)
    assert answer.decision == "unknown" and answer.witness is None
    assert asked and {number for number, _ in asked} == {0}


def test_without_time_nothing_is_proved():
    network, shape, case = query(0, (3, 4, 3), -1e-3)
    assert decided(network, shape, [case], seconds=0.0).decision == "unknown"


def test_the_same_seed_finds_the_same_input_and_leaves_the_generator_alone():
    network, shape, case = query(2, (3, 6), 0.02)
    state = torch.get_rng_state()
    first, second = (decided(network, shape, [case]) for _ in range(2))
    assert torch.equal(first.witness, second.witness)
    assert torch.equal(torch.get_rng_state(), state)


def test_boxes_are_rounded_away_for_proofs_and_inwards_for_inputs():
    third = torch.tensor([1 / 3, -1 / 3, 0.5], dtype=torch.float64)
    down, up = (outward(third, torch.zeros(0), down=side) for side in (True, False))
    assert (down.double() <= third).all() and (up.double() >= third).all()
    assert down[2] == up[2] == 0.5
    assert (up.double() - down.double()).max() <= 2 * torch.finfo(torch.float32).eps
    box = Bounds(third[None] - 1e-3, third[None] + 1e-3)
    inputs = falsifier._OverBox(nn.Identity(), box).inputs(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert (inputs.double() >= box.lower).all() and (inputs.double() <= box.upper).all()


def test_a_single_point_that_no_float_is():
    third = torch.full((1, 1, 1), 1 / 3, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
    network[1].weight.fill_(1), network[1].bias.zero_()
    weight = torch.tensor([[1.0, 0.0]]).double()
    for share, decision in ((0.3, "sat"), (0.4, "unsat")):
        case = Case(third, third, weight, torch.tensor([-share]).double())
        answer = decided(network, (1, 1, 1), [case])
        assert answer.decision == decision
    assert math.isclose(
        float(decided(network, (1, 1, 1), [Case(third, third, weight, -third.view(1) + 0.1)]).witness),
        1 / 3,
        rel_tol=1e-7,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_without_numbers_of_its_own(dtype):
    """The sum of two pixels' positive parts; its largest value over the box is 2."""

    class Positive(nn.Module):
        def forward(self, x):
            return x.relu().flatten(1)

    lower, upper = torch.full((1, 1, 2), -1.0).double(), torch.full((1, 1, 2), 1.0).double()
    for bias, decision in ((-1.9, "sat"), (-2.1, "unsat")):
        case = Case(lower, upper, torch.ones(1, 2).double(), torch.tensor([bias]).double())
        assert decided(Positive(), (1, 1, 2), [case], dtype=dtype).decision == decision


@pytest.mark.parametrize("few", [0, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_bounds_are_infinite_nothing_is_proved(monkeypatch, dtype, few):
    """A logarithm has no lower bound over a box that holds 0; every counter-example is denied."""
    monkeypatch.setattr(verifier, "_FEW", few)

    class Logarithm(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2).requires_grad_(False)

        def forward(self, x):
            return self.layer((x.flatten(1) * 1.0).log().relu())

    lower, upper = torch.zeros(1, 1, 2).double(), torch.full((1, 1, 2), 9.0).double()
    for row in ([1.0, 0.0], [-1.0, 0.5]):
        case = Case(lower, upper, torch.tensor([row]).double(), torch.tensor([100.0]).double())
        answer = decided(Logarithm(), (1, 1, 2), [case], confirm=lambda *_: False, seconds=1.0, dtype=dtype)
        assert answer.decision == "unknown"
