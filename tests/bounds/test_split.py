"""Splitting proves the exact minimum of tiny networks, never more, and stops where it says that it does."""

import itertools
import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from overproof.bounds import split as module
from overproof.bounds.crown import BoundOptions, final, intermediate
from overproof.bounds.region import Region
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.spec import margins
from overproof.bounds.split import Budget, Proof, bound_least, split
from overproof.bounds.trace import trace

from .networks import CLASSES, ROUNDING, normal, random_network, reached, settled, uniform
from .test_crown import least_of_patterns, tiny

TINY = [
    (0, (2, 6), 0.0),
    (1, (3, 6), 0.0),
    (2, (2, 4, 3), 0.0),
    (4, (2, 3, 3), 0.2),
    (5, (2, 2, 2, 2), 0.0),
    (7, (3, 4, 3), 0.0),
]
WHATEVER_IT_TAKES = Budget(seconds=60, batch=16, optimizer=AlphaOptimizer(steps=80, rate=0.25, decay=0.95))
every_tiny = pytest.mark.parametrize(("seed", "widths", "leak"), TINY)


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one on which a second passes at every look; return how often it was looked at."""
    looks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))


class Case:
    """One network, one region, some rows over the logits, and what CROWN proves of them."""

    def __init__(self, network, shape, spec, *, eps=0.4, seed=0, norm="linf"):
        self.network, self.spec = network, spec.double()
        self.graph = trace(network, shape).graph()
        self.region = Region.around(uniform(1, *shape, seed=seed), eps, norm)
        self.layers = intermediate(self.graph, self.region, "crown")
        self.crown = final(self.graph, self.region, self.layers, self.spec[None], BoundOptions(method="crown")).lower[0]

    def least(self, enough=math.inf, budget=WHATEVER_IT_TAKES, rows=slice(None), lower=None):
        """Return the proof; with an ``enough`` that is never reached, all that splitting can prove."""
        lower = self.crown[rows] if lower is None else lower
        return bound_least(self.graph, self.region, self.layers, self.spec[rows], lower, enough=enough, budget=budget)

    def split(self, goal, budget=WHATEVER_IT_TAKES, worth=None):
        """Split for the least of the rows, or for another worth."""
        worth = worth or (lambda rows: -rows.amin(dim=1))
        return split(self.graph, self.region, self.layers, self.spec, worth, goal=goal, budget=budget)


@cache
def tiny_case(seed, widths=(3, 6), leak=0.0, rows=2):
    """Return a case whose rows' exact minima ``[rows]`` are known."""
    network, shape = tiny(seed, widths, leak)
    made = Case(network, shape, normal(rows, 2, seed=seed), seed=seed)
    made.exact = torch.tensor([least_of_patterns(network, made.region, row, leak) for row in made.spec]).double()
    return made


@cache
def residual_case(seed, norm="linf"):
    """Return a random residual graph, with max poolings, and what sampling and gradients reach of each row."""
    network, shape = random_network(seed)
    spec = normal(2, CLASSES, seed=seed)
    made = Case(network, shape, spec, eps={"linf": 0.1, "l2": 0.5}[norm], seed=seed, norm=norm)
    made.reached = reached(network, made.region, made.spec[None], count=300).lower[0]
    return made


# --- the exact minimum ------------------------------------------------------------------------------------------------


@every_tiny
def test_every_row_comes_to_its_exact_minimum(seed, widths, leak):
    case = tiny_case(seed, widths, leak)
    for number, exact in enumerate(case.exact.tolist()):
        proof = case.least(rows=slice(number, number + 1))
        assert proof.finished
        assert -proof.worst <= exact + 1e-7
        assert -proof.worst == pytest.approx(exact, abs=3e-4)


def test_most_of_these_networks_need_splitting():
    gaps = [(case.exact - case.crown).max().item() for case in itertools.starmap(tiny_case, TINY)]
    assert sum(gap > 0.02 for gap in gaps) >= 3 and max(gaps) > 0.2
    case = tiny_case(*TINY[-2])
    assert max(case.least(rows=slice(number, number + 1)).parts for number in range(2)) >= 15


@every_tiny
def test_the_least_of_several_rows(seed, widths, leak):
    case = tiny_case(seed, widths, leak)
    proof = case.least()
    assert -proof.worst <= case.exact.min().item() + 1e-7
    assert -proof.worst == pytest.approx(case.exact.min().item(), abs=3e-4)


@every_tiny
@pytest.mark.parametrize("seconds", range(2, 6))
def test_no_budget_cuts_the_exact_minimum(clock, seed, widths, leak, seconds):
    """With the default optimiser, and stopped after any number of rounds, the first of them included."""
    case = tiny_case(seed, widths, leak)
    proof = case.least(budget=Budget(seconds=seconds, batch=1))
    assert case.crown.min() - ROUNDING <= -proof.worst <= case.exact.min() + 1e-7


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(8))
def test_residual_and_pooled_networks_are_never_cut(clock, seed, norm):
    case = residual_case(seed, norm)
    for number in range(2):
        proof = case.least(rows=slice(number, number + 1), budget=Budget(seconds=5))
        assert case.crown[number] - ROUNDING <= -proof.worst <= case.reached[number] + ROUNDING


def test_residual_and_pooled_networks_are_bounded_better(clock):
    """Of the gap between CROWN and what is reached much is a max pooling's, where nothing is split."""
    gap, gained = 0.0, 0.0
    for seed in (3, 7, 9, 11):
        case = residual_case(seed)
        for number in range(2):
            proof = case.least(rows=slice(number, number + 1), budget=Budget(seconds=8))
            gap += (case.reached[number] - case.crown[number]).item()
            gained += -proof.worst - case.crown[number].item()
    assert gained > 0.15 * gap


def test_in_single_precision():
    case = tiny_case(1)
    exact = case.exact.min().item()
    single = case.graph.to(torch.float32), case.region.to(dtype=torch.float32)
    layers = intermediate(*single, "crown")
    proof = bound_least(
        *single, layers, case.spec.float(), case.crown.float(), enough=math.inf, budget=Budget(seconds=60, batch=16)
    )
    assert case.crown.min() - 1e-5 < -proof.worst < exact + 1e-5
    assert -proof.worst > case.crown.min() + 0.3 * (exact - case.crown.min())


def test_the_signs_alone_are_worth_something():
    """With an optimiser of no steps the parts are told apart by their layers' bounds only."""
    case = tiny_case(5, (2, 2, 2, 2))
    proof = case.least(budget=Budget(seconds=60, root=AlphaOptimizer(steps=0), optimizer=AlphaOptimizer(steps=0)))
    assert case.crown.min() + 0.04 < -proof.worst <= case.exact.min() + 1e-7


# --- when it stops ----------------------------------------------------------------------------------------------------


def test_it_stops_at_the_goal():
    case = tiny_case(1, rows=1)
    exact, crown = case.exact.item(), case.crown.item()
    everything, middle = case.least(), (exact + crown) / 2
    proof = case.least(enough=middle)
    assert proof.finished
    assert middle < -proof.worst <= exact + 1e-7
    assert 1 < proof.parts < everything.parts


def test_a_goal_that_cannot_be_reached_is_finished_only_when_nothing_is_left():
    case = tiny_case(1, rows=1)
    proof = case.least(enough=case.exact.item() + 1.0)
    assert proof.finished
    assert -proof.worst == pytest.approx(case.exact.item(), abs=3e-4)


def test_a_goal_that_holds_at_once_needs_one_part():
    case = tiny_case(1, rows=1)
    assert case.split(goal=-case.crown.item() + 0.5).parts == 1


def test_out_of_time_is_not_finished(clock):
    case = tiny_case(1, rows=1)
    bounds, parts = [], []
    for seconds in range(8):
        proof = case.least(budget=Budget(seconds=seconds, batch=1))
        assert not proof.finished
        bounds.append(-proof.worst)
        parts.append(proof.parts)
    # The whole takes a second, so its two halves are not begun where two seconds are left after it.
    assert parts == [1, 1, 1, 3, 5, 7, 9, 11]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0] + 0.01


def test_no_more_parts_wait_than_there_is_memory_for(monkeypatch):
    case = tiny_case(5, (2, 2, 2, 2), rows=1)
    whole = case.least(enough=math.inf)
    open_ = int(sum(((low < 0) & (high > 0)).sum() for low, high in (case.layers[n] for n in (2, 4, 6))))
    monkeypatch.setattr(module, "_WAITING", 4 * open_ * 2)  # two parts
    proof = case.least(enough=math.inf, budget=Budget(seconds=60, batch=1))
    assert not proof.finished and 1 < proof.parts < whole.parts
    assert -proof.worst <= case.exact.min() + 1e-7


def test_without_any_time_the_whole_is_bounded_once():
    case = tiny_case(1, rows=1)
    proof = case.least(budget=Budget(seconds=0))
    assert (proof.parts, proof.finished) == (1, False)
    assert -proof.worst >= case.crown.item() - ROUNDING


def test_parts_are_counted(clock):
    """One ReLU is two parts and the whole; of two the second is split in each part, or in one where the other is at
    its goal; and a batch never takes more parts than it may.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double().requires_grad_(False)
    network[1].weight.fill_(1), network[1].bias.fill_(-0.5)
    network[3].weight.fill_(-1), network[3].bias.zero_()
    case = Case(network, (1, 1, 1), torch.ones(1, 1), eps=1.0)
    assert case.least() == Proof(pytest.approx(0.5, abs=1e-6), 3, True)
    wide = tiny_case(1, rows=1)
    # After each second as many pairs as are expected to end in time: of 4 s two for the whole, two for both halves.
    assert wide.least(budget=Budget(seconds=4, batch=4)).parts == 1 + 2 + 2
    assert wide.least(budget=Budget(seconds=1e6, batch=4)).parts >= wide.least(budget=Budget(seconds=9, batch=4)).parts
    assert wide.least(budget=Budget(seconds=5, batch=1)).parts == 1 + 2 + 2 + 2


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_where_no_sign_is_open_nothing_is_split(eps):
    network, shape = tiny(0, (2, 6))
    case = Case(network, shape, normal(2, 2), eps=eps)
    proof = case.least()
    assert (proof.parts, proof.finished) == (1, True)
    assert -proof.worst == pytest.approx(case.crown.min().item(), abs=1e-9)


def test_a_network_without_relus_is_bounded_once():
    network = settled(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    case = Case(network.requires_grad_(False), (1, 2, 2), normal(2, 3))
    proof = case.least()
    assert (proof.parts, proof.finished) == (1, True)
    assert -proof.worst == pytest.approx(case.crown.min().item(), abs=1e-9)


# --- rows that are settled, worths of other kinds ---------------------------------------------------------------------


def test_rows_that_are_settled_are_left_alone(monkeypatch):
    case = tiny_case(1, rows=4)
    asked = []

    whole = module._Tree.root

    def spy(tree):
        asked.append(tree.spec)
        return whole(tree)

    monkeypatch.setattr(module._Tree, "root", spy)
    lower = torch.tensor([-1.0, 0.3, 0.2, 0.5], dtype=torch.float64)
    case.least(enough=0.2, lower=lower)
    torch.testing.assert_close(asked[0], case.spec[[0, 2]])  # 0.2 itself does not exceed 0.2


def test_what_is_known_of_settled_rows_bounds_the_least():
    case = tiny_case(1, rows=2)
    case.spec[1] = -case.spec[0]  # the other side of the same row
    lower = torch.tensor([case.crown[0].item(), 100.0]).double()
    assert case.least(enough=10.0, lower=lower) == case.least(enough=10.0, rows=slice(1), lower=lower[:1])
    # A settled row that is the least of all: nothing below it can be proved of both.
    lower = torch.tensor([-5.0, -9.0]).double()
    assert case.least(enough=-8.0, rows=slice(1), lower=lower[:1]) == Proof(5.0, 0, True)
    lower = torch.tensor([-9.0, -7.0]).double()
    assert case.least(enough=-8.0, lower=lower) == Proof(7.0, 1, True)


def test_nothing_is_split_where_every_row_is_settled():
    case = tiny_case(1, rows=2)
    assert case.least(enough=0.0, lower=torch.tensor([0.5, 0.25]).double()) == Proof(-0.25, 0, True)


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_where_nothing_is_known_of_a_layer_nothing_is_proved_by_it(seed):
    """Infinite bounds meet as no numbers, which compare with nothing: they must not pass for a goal that is reached."""
    case = tiny_case(seed, {number: widths for number, widths, _ in TINY}[seed], rows=2)
    first = next(number for number, node in enumerate(case.graph.nodes) if type(node.operator).__name__ == "ReLU") - 1
    layers = list(case.layers)
    layers[first] = type(layers[first])(
        *(torch.full_like(side, end * torch.inf) for side, end in zip(layers[first], (-1, 1), strict=True))
    )
    unknown = torch.full((2,), -torch.inf).double()
    for enough in (0.0, -1e6):
        budget = Budget(seconds=3, batch=4)
        proof = bound_least(case.graph, case.region, layers, case.spec, unknown, enough=enough, budget=budget)
        assert -proof.worst <= case.exact.min() + 1e-7


def test_what_was_known_before_is_never_given_up():
    case = tiny_case(1, rows=1)
    known = case.exact - 1e-6
    assert case.least(lower=known, budget=Budget(seconds=0)).worst == -known.item()


def test_a_bound_of_exactly_enough_is_not_enough():
    """Verified means that the margins are positive, not that none is negative."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double().requires_grad_(False)
    for layer in network[1::2]:
        layer.weight.fill_(1), layer.bias.zero_()
    case = Case(network, (1, 1, 1), torch.ones(1, 1), eps=1.0)
    proof = case.least(enough=0.0, lower=torch.zeros(1).double())
    assert -proof.worst == 0


def test_any_falling_function_of_the_rows_may_be_wanted_small():
    """The same proof of a row by another scale; and of a sum that is looked at, not of its parts."""
    case = tiny_case(1)
    plain = case.split(-torch.inf, worth=lambda rows: -rows.amin(dim=1))
    squeezed = case.split(-torch.inf, worth=lambda rows: (-rows.amin(dim=1)).exp())
    assert squeezed.worst == pytest.approx(math.exp(plain.worst), rel=1e-3)
    summed = case.split(-torch.inf, worth=lambda rows: -rows.sum(dim=1))
    least = least_of_patterns(case.network, case.region, case.spec.sum(dim=0))
    assert case.exact.sum() - 1e-3 <= -summed.worst <= least + 1e-7


# --- parts that do not exist ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", [WHATEVER_IT_TAKES.optimizer, Budget().optimizer, AlphaOptimizer(steps=100, rate=1.0)]
)
def test_parts_without_images_do_no_harm(optimizer):
    """Of twins, one positive and one negative; and of z and -z - 1, both positive. Their bounds may rise for ever."""
    network, shape = tiny(1, (2, 6))
    first = network[1]
    first.weight[1], first.bias[1] = first.weight[0], first.bias[0]
    first.weight[3], first.bias[3] = -first.weight[2], -first.bias[2] - 1
    first.weight[5], first.bias[5] = 2 * first.weight[4], 2 * first.bias[4]
    spec = normal(2, 2, seed=1)
    case = Case(network, shape, spec, seed=1)
    exact = min(least_of_patterns(network, case.region, row) for row in case.spec)
    proof = case.least(budget=Budget(seconds=60, batch=16, optimizer=optimizer))
    assert proof.finished and math.isfinite(proof.worst)
    assert case.crown.min() - ROUNDING <= -proof.worst <= exact + 1e-7
    if optimizer.steps > Budget().optimizer.steps:
        assert -proof.worst == pytest.approx(exact, abs=2e-3)


def test_splitting_verifies_what_crown_cannot():
    """relu(z) - z / 2 + 0.1 for z in [-1, 1]: at least 0.1, and without its slope at most -0.4 can be proved."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double().requires_grad_(False)
    network[1].weight.fill_(2), network[1].bias.copy_(torch.tensor([-1.0, 0.0]))  # z, and z + 1, which is not negative
    network[3].weight.copy_(torch.tensor([[1.0, -0.5], [0.0, 0.0]])), network[3].bias.copy_(torch.tensor([0.6, 0.0]))
    case = Case(network, (1, 1, 1), margins(torch.tensor([0]), 2)[0], eps=1.0)
    assert case.crown.item() == pytest.approx(-0.4)
    proof = case.least(enough=0.0, budget=Budget())
    assert proof.finished and proof.parts <= 3 and 0 < -proof.worst <= 0.1 + 1e-7
    assert -case.least().worst == pytest.approx(0.1, abs=2e-3)


def test_the_defaults_of_a_budget():
    assert Budget() == Budget(
        seconds=5.0,
        batch=64,
        tried=4,
        root=AlphaOptimizer(),
        optimizer=AlphaOptimizer(steps=3, rate=0.1),
        last=AlphaOptimizer(steps=200, rate=1.0),
    )
