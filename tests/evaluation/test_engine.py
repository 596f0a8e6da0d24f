from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

import pytest
import torch
from torch import nn

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Norm, Radius, ball
from overproof.attacks.base import BaseAttack
from overproof.attacks.fab import FAB
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import AttackSpec, Suite
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.engine import Subject, _longest, count_passes, run_attacks, try_images
from overproof.functional import margin

EPS = Radius("6/255")
WEAK = AttackSpec(name="weak", attack=PGD(steps=1, start="none", eps=Radius("2/255")))
DRAWN = AttackSpec(name="drawn", attack=PGD(steps=2, restarts=2, eps=EPS))
APGD_T = AttackSpec(name="apgd-t", attack=APGD(steps=5, eps=EPS), loss="dlr", targets=2)
FAB_T = AttackSpec(name="fab-t", attack=FAB(steps=5, eps=EPS), loss="margin", targets=1)
SQUARE = AttackSpec(name="square", attack=Square(queries=20, eps=EPS), loss="margin")
TRIALS = (WEAK, DRAWN, APGD_T, FAB_T, SQUARE)
SURVIVORS = Suite(name="survivors", attacks=TRIALS, survivors=True)
INDEPENDENT = Suite(name="independent", attacks=TRIALS)


@dataclass(frozen=True, kw_only=True)
class Told(BaseAttack):
    """A search that returns what it is told to, whatever that is."""

    kind: Literal["told"] = "told"
    answer: object
    norm: Norm = "linf"
    eps: Radius = EPS

    def search(self, model, x, goal):
        return self.answer(x, goal)


class Narrow(nn.Module):
    """A network on a device that holds a few examples at a time."""

    def __init__(self, network, fits):
        super().__init__()
        self.network, self.fits, self.refused = network, fits, 0

    def forward(self, x):
        if len(x) > self.fits:
            self.refused += 1
            raise torch.OutOfMemoryError("no memory")
        return self.network(x)


@pytest.fixture
def model(tiny_classifier):
    return tiny_classifier().eval()


@pytest.fixture
def block(model):
    """Return 24 images; the label is the network's own answer, but for every fourth."""
    x = torch.randint(0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(2)).float() / 255
    y = model(x).argmax(dim=1)
    y[::4] = (y[::4] + 1) % 4
    return Batch(x, y)


def subject(model, **options):
    return Subject(judge=model, search=model, **options)


def attacked(who, block, suite, *, seed=0, number=0, state=None):
    *_, found = run_attacks(who, block, suite, seed=seed, number=number, state=state)
    return found


def alone(*trials, survivors=False):
    return Suite(name="suite", attacks=trials, survivors=survivors)


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first if name != "seconds")


# --- what a verdict may depend on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [SURVIVORS, INDEPENDENT], ids=lambda suite: suite.name)
def test_interrupted_after_any_pass_it_comes_to_the_same_bits(model, block, suite):
    whole = attacked(subject(model), block, suite, number=3)
    stops = [copied(state) for state in run_attacks(subject(model), block, suite, seed=0, number=3)]
    assert len(stops) == count_passes(suite, 4) == 1 + 1 + 2 + 2 + 1 + 1
    assert [int(state["passes"]) for state in stops] == list(range(len(stops)))
    for state in stops[:-1]:
        torch.rand(7)  # another process has drawn something else before
        assert same(attacked(subject(model), block, suite, number=3, state=state), whole)
    assert list(run_attacks(subject(model), block, suite, seed=0, number=3, state=stops[-1])) == []


def test_other_blocks_before_it_change_nothing(model, block):
    first = attacked(subject(model), block, SURVIVORS, number=1)
    attacked(subject(model), Batch(block.x.flip(0), block.y.flip(0)), SURVIVORS, number=0)
    assert same(attacked(subject(model), block, SURVIVORS, number=1), first)


def test_seeds_blocks_trials_and_passes_draw_differently(model, block):
    starts = []

    def look(x, goal):
        starts.append(torch.rand(4))
        return x

    for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1)):
        attacked(subject(model), block, alone(AttackSpec(name="a", attack=Told(answer=look))), seed=seed, number=number)
    assert torch.equal(starts[0], starts[1])
    two = alone(
        AttackSpec(name="a", attack=Told(answer=look), targets=2), AttackSpec(name="b", attack=Told(answer=look))
    )
    attacked(subject(model), block, two)
    assert len({tuple(start.tolist()) for start in starts}) == 3 + 2  # the first pass of trial a was drawn before


def test_every_pass_adds_its_seconds_to_its_trial(model, block):
    started = monotonic()
    spent = [state["seconds"].clone() for state in run_attacks(subject(model), block, INDEPENDENT, seed=0, number=0)]
    columns = [0, 1, 2, 2, 3, 3, 4, 5]  # of the clean pass and of each trial's passes
    before = torch.zeros(1 + len(TRIALS), dtype=torch.float64)
    assert spent[-1].sum() <= monotonic() - started
    for column, now in zip(columns, spent, strict=True):
        assert (now - before).nonzero().flatten().tolist() == [column]
        assert now[column] > before[column]
        before = now


# --- who is attacked --------------------------------------------------------------------------------------------------


def test_survivors_alone_are_attacked_or_all_correct_ones(model, block):
    correct = model(block.x).argmax(dim=1) == block.y
    assert 0 < correct.sum() < 24
    for suite in (SURVIVORS, INDEPENDENT):
        state = attacked(subject(model), block, suite)
        robust = correct.clone()
        for column, trial in enumerate(suite.attacks):
            let_loose = robust if suite.survivors else correct
            assert torch.equal(state["forward"][:, column] > 0, let_loose), trial.name
            gradients = state["backward"][:, column] > 0
            assert torch.equal(gradients, torch.zeros_like(robust) if trial is SQUARE else let_loose), trial.name
            assert state["survived"][~let_loose, column].all()
            robust = robust & state["survived"][:, column]
        assert 0 < robust.sum() < correct.sum()  # the suite breaks some and not all


def test_a_later_pass_sees_what_the_earlier_ones_left(model, block):
    seen = []

    def break_one(x, goal):
        seen.append(len(x))
        x = x.clone()
        x[0] = 0.5
        return x

    grey = model(torch.full((1, 3, 8, 8), 0.5)).argmax()
    others = (model(block.x).argmax(dim=1) == block.y) & (block.y != grey)
    rest = Batch(block.x[others], block.y[others])
    trial = AttackSpec(name="one", attack=Told(answer=break_one, eps=Radius("1")), targets=3)
    state = attacked(subject(model), rest, alone(trial))
    assert seen == [len(rest.y), len(rest.y) - 1, len(rest.y) - 2]
    assert torch.equal(state["survived"][:, 0], torch.arange(len(rest.y)) >= 3)


def test_targets_are_the_likeliest_wrong_classes_in_their_order(model, block):
    towards = []

    def look(x, goal):
        towards.append(goal.target)
        return x

    attacked(subject(model), block, alone(AttackSpec(name="t", attack=Told(answer=look), targets=9)))
    logits = model(block.x)
    correct = logits.argmax(dim=1) == block.y
    ranking = logits[correct].argsort(dim=1, descending=True)
    assert len(towards) == 3  # four classes have three wrong ones
    assert torch.equal(torch.stack(towards, dim=1), ranking[:, 1:])


def test_a_block_that_is_wrong_already_costs_nothing(model, block):
    wrong = Batch(block.x, (model(block.x).argmax(dim=1) + 1) % 4)
    state = attacked(subject(model), wrong, SURVIVORS)
    assert state["forward"].sum() == state["backward"].sum() == 0
    assert state["survived"].all()
    assert torch.equal(state["image"], block.x)
    assert (state["margin"] < 0).all()


def test_one_example_and_a_suite_without_attacks(model, block):
    one = Batch(block.x[1:2], block.y[1:2])
    assert attacked(subject(model), one, SURVIVORS)["survived"].shape == (1, len(TRIALS))
    (state,) = run_attacks(subject(model), block, alone(), seed=0, number=0)
    assert state["survived"].shape == (24, 0)
    assert count_passes(alone(), 4) == 1


# --- what the state say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [SURVIVORS, INDEPENDENT], ids=lambda suite: suite.name)
def test_marks_agree_with_the_network_and_with_each_other(model, block, suite):
    state = attacked(subject(model), block, suite)
    correct = state["prediction"] == state["label"]
    misclassified = correct & ~state["survived"].all(dim=1)
    assert torch.allclose(state["clean_logits"], model(block.x))
    assert torch.allclose(state["attacked_logits"], model(state["image"]), atol=1e-5)
    assert torch.equal(state["margin"], margin(state["attacked_logits"], block.y))
    assert torch.equal(state["norm"], (state["image"] - block.x).flatten(1).abs().amax(dim=1))
    assert torch.equal(state["margin"] < 0, misclassified | ~correct)
    assert (state["margin"] <= margin(state["clean_logits"], block.y)).all()
    assert (state["norm"] <= EPS * (1 + 1e-5)).all()
    assert ((state["image"] >= 0) & (state["image"] <= 1)).all()
    assert (state["norm"][~correct] == 0).all()


def test_the_worst_of_several_points_is_kept_with_its_own_norm(model, block):
    correct = model(block.x).argmax(dim=1) == block.y
    right = Batch(block.x[correct], block.y[correct])
    shifts = (0.01, -0.02, 0.005)
    points = [(right.x + shift).clamp(0, 1) for shift in shifts]
    margins = torch.stack([margin(model(x), right.y) for x in (right.x, *points)])
    told = [
        AttackSpec(name=str(index), attack=Told(answer=lambda x, goal, point=point: point, eps=Radius("0.1")))
        for index, point in enumerate(points)
    ]
    state = attacked(subject(model), right, alone(*told))
    lowest = margins.amin(dim=0)
    assert len(margins.argmin(dim=0).unique()) > 2  # each of the points is the worst of some example
    assert torch.allclose(state["margin"], lowest, atol=1e-5)
    images = torch.stack([right.x, *points])[margins.argmin(dim=0), torch.arange(len(lowest))]
    assert torch.equal(state["image"], images)
    assert torch.allclose(state["norm"], (images - right.x).flatten(1).abs().amax(dim=1))


# --- searches and networks that cannot be relied upon -----------------------------------------------------------------

LIES = {
    "outside the ball": lambda x, goal: (x + 2 * EPS).clamp(0, 1),
    "just outside the ball": lambda x, goal: x + 1.0001 * EPS * torch.where(x > 0.5, -1, 1),
    "below 0": lambda x, goal: x - EPS,
    "above 1": lambda x, goal: x + EPS,
    "not a number": lambda x, goal: torch.full_like(x, torch.nan),
    "infinite": lambda x, goal: torch.full_like(x, torch.inf),
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_a_search_that_leaves_the_ball_or_the_pixels_breaks_nothing(answer, block):
    # Every example has a pixel at both ends, so any shift leaves [0, 1]; the network takes any change for a class.
    x = block.x.clone()
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.0, 1.0
    known = x.clone()

    class Touchy(nn.Module):
        def forward(self, z):
            same = torch.stack([(row == known).flatten(1).all(dim=1).any() for row in z])
            return torch.stack([same.float(), (~same).float()], dim=1)

    clean = Batch(x, torch.zeros(24, dtype=torch.int64))
    state = attacked(subject(Touchy()), clean, alone(AttackSpec(name="liar", attack=Told(answer=answer))))
    assert state["survived"].all()
    assert torch.equal(state["image"], x)
    assert (state["norm"] == 0).all()
    assert (state["margin"] == 1).all()
    inside = AttackSpec(name="honest", attack=Told(answer=lambda x, goal: (x + EPS).clamp(0, 1)))
    assert not attacked(subject(Touchy()), clean, alone(inside))["survived"].any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_point_on_the_sphere_counts_in_spite_of_rounding(norm, block):
    eps = Radius({"linf": "8/255", "l2": "0.5", "l1": "12"}[norm])
    area = ball(norm, eps)
    answer = Told(answer=lambda x, goal: area.project(x + area.uniform(x) * 100, x), norm=norm, eps=eps)
    x = 0.25 + 0.5 * block.x
    found = answer.answer(x, None)
    assert (area.size(found - x) > 0.99 * eps).all()

    class Far(nn.Module):
        def forward(self, z):
            moved = (area.size(z - x) > 0.5 * eps).float()
            return torch.stack([0.5 - moved, moved], dim=1)

    clean = Batch(x, torch.zeros(24, dtype=torch.int64))
    assert not attacked(subject(Far()), clean, alone(AttackSpec(name="edge", attack=answer)))["survived"].any()
    longer = replace(answer, eps=Radius(0.999 * area.size(found - x).amin().item()))
    assert attacked(subject(Far()), clean, alone(AttackSpec(name="edge", attack=longer)))["survived"].all()


@pytest.mark.parametrize(("norm", "units"), [("linf", 1), ("l2", 192**0.5), ("l1", 192)])
def test_what_rounding_may_add_to_eps(norm, units):
    # Half a unit in the last place of float32 at 1 in every pixel: such a vector's length in the norm.
    trial = AttackSpec(name="edge", attack=Told(answer=lambda x, goal: x, norm=norm, eps=Radius("1/2")))
    longest = _longest(trial, torch.zeros(4, 3, 8, 8))
    assert longest == pytest.approx(0.5 * (1 + 1e-6) + units * 2**-24, rel=1e-12)


def test_success_on_the_searched_network_is_no_success(model, tiny_classifier, block):
    other = tiny_classifier(seed=9).eval()
    who = Subject(judge=model, search=other, slack=0.0)
    state = attacked(who, block, INDEPENDENT)
    judged = model(state["image"]).argmax(dim=1) != block.y
    correct = state["prediction"] == block.y
    assert torch.equal(judged & correct, correct & ~state["survived"].all(dim=1))
    assert torch.equal(state["prediction"], model(block.x).argmax(dim=1))


def test_transfer_searches_on_the_surrogate_and_is_judged_on_the_network(model, tiny_classifier, block):
    surrogate = tiny_classifier(seed=9).eval()
    shown = {"surrogate": [], "judge": []}
    for name, network in (("surrogate", surrogate), ("judge", model)):
        network.register_forward_pre_hook(lambda _, args, name=name: shown[name].append(len(args[0])))
    trial = AttackSpec(name="transfer", attack=PGD(steps=4, start="none", eps=EPS), surrogate=True)
    state = attacked(subject(model, surrogate=surrogate), block, alone(trial))
    correct = state["prediction"] == block.y
    robust = int(correct.sum())
    assert shown == {"surrogate": [robust] * 4, "judge": [24, robust]}
    twin = PGD(steps=4, start="none", eps=EPS)(
        surrogate,
        block.x[correct],
        lambda x: -torch.log_softmax(surrogate(x), 1).gather(1, block.y[correct, None])[:, 0],
    )
    assert torch.equal(model(twin).argmax(dim=1) == block.y[correct], state["survived"][correct, 0])


def test_transfer_without_a_surrogate_is_refused(model, block):
    trial = AttackSpec(name="transfer-pgd", attack=PGD(), surrogate=True)
    with pytest.raises(InputError, match=r"^attack 'transfer-pgd' searches on a teacher, and there is none$"):
        attacked(subject(model), block, alone(trial))


class Undefined(nn.Module):
    """Not a number where an image satisfies a condition."""

    def __init__(self, network, where):
        super().__init__()
        self.network, self.where = network, where

    def forward(self, x):
        return self.network(x).masked_fill(self.where(x)[:, None], torch.nan)


def test_logits_that_are_no_numbers_are_refused_with_counts(model, block):
    dark = block.x.flatten(1).mean(dim=1)
    limit = dark.sort().values[4]
    network = Undefined(model, lambda x: x.flatten(1).mean(dim=1) <= limit)
    with pytest.raises(InputError) as caught:
        attacked(subject(network), block, alone())
    assert str(caught.value) == "the network's outputs are not finite (NaN or infinite) on 5 of 24 clean images"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_logit_that_is_no_number_is_one_too_many(value, model, block):
    def network(x):
        logits = model(x).clone()
        logits[0, -1] = value
        return logits

    with pytest.raises(InputError, match=r"not finite .* on 1 of 24 clean images"):
        attacked(Subject(judge=network, search=network), block, alone())


def test_so_are_those_that_an_attack_runs_into(model, block):
    correct = model(block.x).argmax(dim=1) == block.y
    grey = AttackSpec(name="grey", attack=Told(answer=lambda x, goal: torch.full_like(x, 0.5), eps=Radius("1")))
    network = Undefined(model, lambda x: (x == 0.5).flatten(1).all(dim=1))
    with pytest.raises(InputError) as caught:
        attacked(subject(network), block, alone(grey))
    robust = int(correct.sum())
    assert str(caught.value) == (
        f"the network's outputs are not finite (NaN or infinite) on {robust} of {robust} images of attack 'grey'"
    )


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [INDEPENDENT, SURVIVORS])
def test_out_of_memory_halves_the_passes_and_changes_nothing(model, block, suite):
    plenty = attacked(subject(model, chunk=24), block, suite)
    narrow = Narrow(model, 5)
    found = attacked(subject(narrow, chunk=24), block, suite)
    assert narrow.refused == 3  # 24, 12 and 6 do not fit, 3 do, and that is remembered
    for name in ("prediction", "survived", "forward", "backward"):
        assert torch.equal(found[name], plenty[name]), name
    for name in ("margin", "norm", "image", "attacked_logits"):
        assert torch.allclose(found[name], plenty[name], atol=1e-4), name


def test_a_search_that_runs_out_of_memory_starts_again_with_the_same_draws(model, block):
    narrow = Narrow(model, 24)
    drawn = []

    def hungry(x, goal):
        drawn.append(torch.rand(3))
        if goal.chunk > 6:
            raise torch.OutOfMemoryError("no memory")
        return x

    state = attacked(subject(narrow, chunk=24), block, alone(AttackSpec(name="hungry", attack=Told(answer=hungry))))
    assert len(drawn) == 3
    assert all(torch.equal(draw, drawn[0]) for draw in drawn)
    assert state["survived"].all()


def test_images_found_before_are_tried_in_chunks_that_fit(model, block):
    suite = alone(AttackSpec(name="a", attack=Told(answer=None, eps=Radius("0.5"))))
    known = (block.x + 0.4 * torch.rand_like(block.x)).clamp(0, 1)
    states = []
    for network in (model, narrow := Narrow(model, 5)):
        state = next(run_attacks(subject(model, chunk=24), block, suite, seed=0, number=0))
        try_images(subject(network, chunk=24), block, state, suite, torch.arange(len(block.x)), known)
        states.append(state)
    plenty, found = states
    assert narrow.refused > 0 and not plenty["survived"].all()
    assert torch.equal(found["forward"], plenty["forward"]) and torch.equal(found["survived"], plenty["survived"])
    assert torch.allclose(found["margin"], plenty["margin"], atol=1e-4)


def test_a_device_without_room_for_one_says_so(model, block):
    with pytest.raises(torch.OutOfMemoryError):
        attacked(subject(Narrow(model, 0), chunk=4), block, alone())


def test_a_chunk_is_never_exceeded(model, block):
    narrow = Narrow(model, 7)
    attacked(subject(narrow, chunk=7), block, INDEPENDENT)
    assert narrow.refused == 0


def test_a_subject_is_its_own_search_and_judge_unless_it_says_more(model):
    plain = Subject(judge=model, search=model)
    assert (plain.slack, plain.surrogate, plain.chunk) == (0.0, None, 1024)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, goal: None, "returned an object of type NoneType, not images"),
        (lambda x, goal: (x, x), "returned an object of type tuple, not images"),
        (lambda x, goal: x[:1], r"was given images \[\d+, 3, 8, 8\] \(torch.float32\) and returned \[1, 3, 8, 8\]"),
        (lambda x, goal: x.double(), r".* and returned \[\d+, 3, 8, 8\] \(torch.float64\)"),
    ],
)
def test_what_an_attack_returns_is_images_like_those_it_was_given(model, block, answer, said):
    suite = Suite(name="odd", attacks=(AttackSpec(name="told", attack=Told(answer=answer)),))
    with pytest.raises(InputError, match=rf"^attack 'told' {said}"):
        list(run_attacks(Subject(judge=model, search=model), block, suite, seed=0, number=0))


def test_a_graph_that_an_attack_leaves_on_its_images_goes_no_further(model, block):
    attack = Told(answer=lambda x, goal: x * torch.ones((), requires_grad=True))
    *_, state = run_attacks(
        Subject(judge=model, search=model),
        block,
        Suite(name="odd", attacks=(AttackSpec(name="told", attack=attack),)),
        seed=0,
        number=0,
    )
    assert not any(value.requires_grad for value in state.values())
