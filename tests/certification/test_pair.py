from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.ticking import ticking
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.bounds.region import Bounds
from overproof.certification import pair as faithful
from overproof.certification.cascade import (
    FALSIFIED,
    NO_MEMORY,
    UNKNOWN,
    UNSOUND,
    VERIFIED,
    Plan,
    Proposal,
    certify_block,
    trace_classifier,
)
from overproof.certification.pair import KINDS, PAIR_STAGES, SIDES, Pair, compare_block
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.attacked import prepare_subject
from overproof.models.classifier import Classifier
from overproof.signature import Signature

TASK = Signature(channels=1, height=4, width=4, classes=3)


@pytest.fixture(autouse=True)
def _short_search(monkeypatch):
    """How hard the attack searches is tested with the attack; no CPU's speed decides what a budget of time buys."""
    ticking(monkeypatch, "bounds", "evaluation", "certification")
    monkeypatch.setattr(faithful, "attack_pair", partial(faithful.attack_pair, steps=8, restarts=1))


def teacher():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)
        )
        with torch.no_grad():
            for module in layers:
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.weight *= 3
                    module.bias.zero_()
            layers[-1].bias -= layers(torch.rand(500, 1, 4, 4)).mean(dim=0)
    return Classifier(layers, TASK).eval()


def student(other, noise=0.03):
    """Return a network that is not far from the other one."""
    model = deepcopy(other)
    draws = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += noise * weight.abs().mean() * torch.randn(weight.shape, generator=draws)
    return model


def images(model, count=24):
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 3
    return Batch(x, y)


def compare(big, small, block, eps="0.02", reach="split", seconds=None, norm="linf"):
    seconds = (0.2 if reach == "split" else 60.0) if seconds is None else seconds  # the clock decides in splits alone
    how = Plan(threat=Threat(norm=norm, eps=Radius(eps)), reach=reach, seconds=seconds)
    proposals = [Proposal(prepare_subject(model), trace_classifier(model, where="net")) for model in (big, small)]
    halved = replace(how, seconds=seconds / 2)  # the student has half of the time
    *_, own = certify_block(proposals[1], block, halved, seed=0, number=0)
    pair = Pair.of(big, small, proposals[0], proposals[1].graph)
    *_, state = compare_block(pair, block, how, own, seed=0, number=0)
    return state, own


def gaps(big, small, x, c):
    """Return the teacher's less the student's confidence, ``[N]``."""
    with torch.no_grad():
        first, second = (model(x).softmax(dim=1).gather(1, c[:, None]).squeeze(1) for model in (big, small))
    return first - second


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.01"), ("linf", "0.03"), ("l2", "0.05")])
def test_the_truth_lies_in_every_bracket(norm, eps):
    big = teacher()
    small = student(big)
    block = images(big)
    state, _ = compare(big, small, block, eps, norm=norm)
    assert not state["problem"].any()
    assert state["correct"].tolist() == [False] + 23 * [True]
    right = state["correct"]
    for side in SIDES:
        attacked, separate, joint, proven = (state[f"{side}_{kind}"][right] for kind in KINDS)
        assert (attacked <= proven).all()
        assert (proven <= joint).all()
        assert (joint <= separate).all()
        assert (separate <= 1).all()
        assert (proven < 0.9).sum() > 5
    for seed in range(100):
        noise = torch.rand(block.x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        if norm == "l2":
            noise = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        x = (block.x + float(Radius(eps)) * noise).clamp(0, 1)
        gap = gaps(big, small, x, block.y)[right]
        assert (gap <= state["under_proven"][right]).all()
        assert (-gap <= state["over_proven"][right]).all()
        with torch.no_grad():
            same = big(x).argmax(dim=1) == small(x).argmax(dim=1)
        assert same[state["agreement"] == VERIFIED].all()
    apart = state["agreement"] == FALSIFIED
    with torch.no_grad():
        assert (big(state["image"]).argmax(dim=1) != small(state["image"]).argmax(dim=1))[apart].all()


def test_agreement_is_proved_where_both_networks_are_and_only_there():
    big = teacher()
    small = student(big)
    block = images(big)
    state, own = compare(big, small, block, "0.02", "crown")
    how = Plan(threat=Threat(eps=Radius("0.02")), reach="crown", seconds=60.0)
    *_, teachers = certify_block(
        Proposal(prepare_subject(big), trace_classifier(big, where="net")), block, how, seed=0, number=0
    )
    both = (own["verdict"] == VERIFIED) & (teachers["verdict"] == VERIFIED)
    assert torch.equal(state["agreement"] == VERIFIED, both)
    assert 0 < both.sum() < 23
    assert set(state["agreement"].tolist()) == {UNKNOWN, VERIFIED, FALSIFIED}
    assert (own["verdict"][state["agreement"] == FALSIFIED] != VERIFIED).any()


def test_a_student_that_is_its_teacher_has_no_gap_but_for_rounding():
    big = teacher()
    state, _ = compare(big, deepcopy(big), images(big), "0.02", "crown")
    right = state["correct"]
    assert (state["under_attacked"][right] == 0).all()
    assert (state["agreement"][right] != FALSIFIED).all()
    # Jointly bounded, what both owe to the image cancels; apart, it does not.
    assert state["under_joint"][right].mean() < state["under_separate"][right].mean() / 2


def test_splitting_narrows_what_crown_leaves_wide():
    big = teacher()
    small = student(big)
    block = images(big)
    crown, _ = compare(big, small, block, "0.03", "crown")
    split, _ = compare(big, small, block, "0.03", "split", seconds=1.0)
    right = crown["correct"]
    gap = {name: state["under_proven"][right] for name, state in (("crown", crown), ("split", split))}
    assert (gap["split"] <= gap["crown"]).all()
    assert gap["split"].mean() < 0.9 * gap["crown"].mean()
    assert torch.equal(crown["under_joint"][right], crown["under_proven"][right])


def test_cheaper_bounds_are_looser():
    big = teacher()
    small = student(big)
    block = images(big)
    means = [
        float(compare(big, small, block, "0.01", reach)[0]["under_proven"].nanmean())
        for reach in ("ibp", "crown_ibp", "crown")
    ]
    assert means[0] > means[1] > means[2]


def test_teacher_and_student_may_have_different_architectures():
    big = teacher()
    torch.manual_seed(3)
    small = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.1), nn.Linear(8, 3)), TASK).eval()
    block = images(big)
    state, own = compare(big, small, block, "0.01", "crown")
    right = state["correct"]
    assert (state["under_attacked"][right] <= state["under_proven"][right]).all()
    # Where the student is wrong about the clean image, a disagreement is at hand.
    assert (state["agreement"][right & (own["stage"] == 0)] == FALSIFIED).all()


def test_a_lower_bound_above_an_upper_one_is_an_error_that_proves_nothing(monkeypatch):
    honest = faithful.bound_pair

    def boastful(*arguments):
        found = honest(*arguments)
        return replace(found, joint=Bounds(found.joint.lower + 2, found.joint.upper - 2))

    monkeypatch.setattr(faithful, "bound_pair", boastful)
    big = teacher()
    state, _ = compare(big, student(big), images(big), "0.02", "crown")
    right = state["correct"]
    assert (state["problem"][right] == UNSOUND).all()
    assert (state["problem"][~right] == 0).all()
    for side in SIDES:
        assert (state[f"{side}_proven"][right] == 1).all()


def test_a_teacher_that_is_always_wrong_leaves_nothing_to_compare():
    big = teacher()
    block = images(big)
    block = block._replace(y=(big(block.x).argmax(dim=1) + 1) % 3)
    state, _ = compare(big, student(big), block)
    assert not state["correct"].any()
    assert torch.equal(state["cost"], torch.zeros(24, dtype=torch.float64))
    for side in SIDES:
        assert all(state[f"{side}_{kind}"].isnan().all() for kind in KINDS)


def test_the_rounding_of_a_gap_is_a_quarter_of_each_network_s_margins():
    # No confidence moves faster than a quarter of its margins, and there are two.
    layers = [
        Bounds(torch.tensor([[-3.0, 0.5]]), torch.tensor([[1.0, 2.0]])),
        Bounds(torch.zeros(1, 1), torch.ones(1, 1)),
    ]
    margins = 16 * 2**-23 * 3
    assert faithful._rounding(layers).tolist() == [margins / 4 + margins / 4 + 16 * 2**-23]


def test_what_does_not_fit_into_memory_is_an_error_of_the_example_alone(monkeypatch):
    big = teacher()
    small = student(big)
    block = images(big)
    before, _ = compare(big, small, block, "0.02", "crown")
    honest = faithful.bound_pair

    def full(both, region, *rest):
        if len(region) > 3 or ((region.box.centre - block.x[9]).abs() < 0.01).flatten(1).all(dim=1).any():
            raise torch.OutOfMemoryError("no memory")
        return honest(both, region, *rest)

    monkeypatch.setattr(faithful, "bound_pair", full)
    state, _ = compare(big, small, block, "0.02", "crown")
    assert (state["problem"] == NO_MEMORY).nonzero().flatten().tolist() == [9]
    others = before["correct"] & (torch.arange(24) != 9)
    assert torch.allclose(state["under_proven"][others], before["under_proven"][others], atol=1e-5)


def test_a_split_that_does_not_fit_into_memory_keeps_what_was_proved(monkeypatch):
    big = teacher()
    small, block = student(big, 0.2), images(big, 4)
    before, _ = compare(big, small, block, "0.05", "crown")

    def full(*_, **__):
        raise problem

    monkeypatch.setattr(faithful, "bound_gap", full)
    problem = torch.OutOfMemoryError("no memory")
    state, _ = compare(big, small, block, "0.05", "split", seconds=2.0)
    right = before["correct"]
    assert torch.equal(state["problem"], before["problem"])
    for side in SIDES:
        torch.testing.assert_close(state[f"{side}_proven"][right], before[f"{side}_proven"][right], rtol=0, atol=1e-6)
    problem = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        compare(big, small, block, "0.05", "split", seconds=2.0)


def test_what_there_is_no_time_for_is_left_out_and_told():
    big = teacher()
    small, block = student(big), images(big)
    plenty, _ = compare(big, small, block, "0.02", "crown")
    state, _ = compare(big, small, block, "0.02", "split", seconds=1e-9)
    right = state["correct"]
    skipped = {
        PAIR_STAGES[place] for place in range(len(PAIR_STAGES)) if (state["unafforded"][right] >> place & 1).all()
    }
    assert {"attack", "crown_ibp", "crown", "split"} <= skipped
    assert not plenty["unafforded"][right].any()
    assert not state["unafforded"][~right].any()
    for side in SIDES:  # intervals are always asked, and what they prove is true
        assert (state[f"{side}_proven"][right] >= plenty[f"{side}_attacked"][right]).all()
        assert (state[f"{side}_proven"][right] <= 1).all()


def test_networks_for_different_tasks_are_named():
    big, small = teacher(), Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), replace(TASK, classes=5))
    with pytest.raises(InputError) as caught:
        Pair.of(
            big,
            small,
            Proposal(prepare_subject(big), trace_classifier(big, where="net")),
            trace_classifier(small, where="net"),
        )
    assert str(caught.value) == "the teacher is for 1x4x4, 3 classes, the student for 1x4x4, 5 classes"
