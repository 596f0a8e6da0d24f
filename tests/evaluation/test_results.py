import math
from itertools import pairwise

import pytest
import torch

from overproof.attacks.apgd import APGD
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import AttackSpec, Suite
from overproof.evaluation.results import Verdicts, count_robust

TRIALS = (
    AttackSpec(name="first", attack=PGD()),
    AttackSpec(name="second", attack=Square()),
    AttackSpec(name="third", attack=APGD(), surrogate=True),
)
INDEPENDENT = Suite(name="independent", attacks=TRIALS)
SURVIVORS = Suite(name="survivors", attacks=TRIALS, survivors=True)

T, F = True, False
LABELS = [0, 0, 0, 0, 0, 1]
PREDICTIONS = [0, 0, 0, 0, 1, 1]  # the fifth is wrong from the start and never attacked
SURVIVED = [[T, T, T], [F, T, T], [T, F, T], [T, T, F], [T, T, T], [F, F, F]]


def state(survived=SURVIVED, labels=LABELS, predictions=PREDICTIONS):
    """Return what the engine would have marked; row i of every column is told by i."""
    size, rows = len(labels), torch.arange(len(labels))
    trials = len(survived[0])
    return {
        "label": torch.tensor(labels),
        "prediction": torch.tensor(predictions),
        "clean_logits": rows[:, None] * torch.ones(2),
        "attacked_logits": rows[:, None] * torch.ones(2) + 0.5,
        "survived": torch.tensor(survived).reshape(size, trials),
        "margin": rows * 0.25,
        "norm": rows * 0.125,
        "image": rows[:, None, None, None] * torch.ones(1, 2, 2),
        "forward": rows[:, None] * 1000 + torch.tensor([1, 20, 300][:trials]),
        "backward": rows[:, None] * 100 + torch.tensor([1, 0, 30][:trials]),
        "seconds": torch.tensor([1.0, 2.0, 4.0, 8.0][: trials + 1], dtype=torch.float64),
        "passes": torch.tensor(trials),
    }


@pytest.fixture
def independent():
    return Verdicts.of([state()], suite=INDEPENDENT)


@pytest.fixture
def survivors():
    return Verdicts.of([state()], suite=SURVIVORS)


def test_blocks_are_joined_in_the_order_given(independent):
    whole, parts = state(), []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = {name: value if name in ("seconds", "passes") else value[rows] for name, value in whole.items()}
        parts.append(part | {"seconds": whole["seconds"] / 4, "passes": torch.tensor(3)})
    joined = Verdicts.of(iter(parts), suite=INDEPENDENT).state
    for name, value in whole.items():
        if name not in ("seconds", "passes"):
            assert torch.equal(joined[name], value), name
    assert torch.equal(joined["seconds"], 0.75 * whole["seconds"])
    assert joined["passes"] == 9
    backwards = Verdicts.of(parts[::-1], suite=INDEPENDENT)
    assert backwards.labels.tolist() == [0, 1, 0, 0, 0, 0]
    assert backwards.worst.passed == independent.worst.passed


def test_correct_and_robust(independent, survivors):
    for found in (independent, survivors):
        assert found.correct.tolist() == [T, T, T, T, F, T]
        assert found.robust.tolist() == [T, F, F, F, F, F]


def test_alone_every_trial_counts_what_itself_broke(independent):
    assert {name: value.tolist() for name, value in independent.survived.items()} == {
        "first": [T, F, T, T, F, F],
        "second": [T, T, F, T, F, F],
        "third": [T, T, T, F, F, F],
    }
    assert {name: (found.passed, found.of) for name, found in independent.attacks.items()} == {
        "first": (3, 6),
        "second": (3, 6),
        "third": (3, 6),
    }


def test_on_survivors_every_trial_counts_what_is_left_after_it(survivors):
    assert {name: value.tolist() for name, value in survivors.survived.items()} == {
        "first": [T, F, T, T, F, F],
        "second": [T, F, F, T, F, F],
        "third": [T, F, F, F, F, F],
    }
    assert [found.passed for found in survivors.attacks.values()] == [3, 2, 1]
    assert survivors.worst.passed == 1


def test_evidence_says_what_it_is_for_and_what_it_cost(independent, survivors):
    assert independent.clean.claim == "correct on clean images"
    assert independent.attacks["second"].claim == "correct under second"
    assert survivors.attacks["second"].claim == "correct after second"
    assert independent.worst.claim == "correct under every attack"
    assert independent.seconds == {"clean": 1.0, "first": 2.0, "second": 4.0, "third": 8.0}
    assert (independent.clean.seconds, independent.attacks["third"].seconds, independent.worst.seconds) == (1, 8, 15)


def test_broken_by_names_the_first_trial_that_broke_an_example(independent):
    assert independent.broken_by() == [None, "first", "second", "third", None, "first"]


def test_a_family_broke_what_any_of_its_trials_broke(independent):
    assert independent.misclassified_in("white_box").tolist() == [F, T, F, F, F, T]
    assert independent.misclassified_in("black_box").tolist() == [F, F, T, F, F, T]
    assert independent.misclassified_in("transfer").tolist() == [F, F, F, T, F, T]
    without = Verdicts.of([state([[row[0]] for row in SURVIVED])], suite=Suite(name="s", attacks=TRIALS[:1]))
    assert without.misclassified_in("black_box") is None
    two = Suite(name="s", attacks=(*TRIALS[:1], AttackSpec(name="fourth", attack=APGD())))
    both = Verdicts.of([state([row[:2] for row in SURVIVED])], suite=two)
    assert both.misclassified_in("white_box").tolist() == [F, T, T, F, F, T]


def test_lines_tell_an_example_what_became_of_it(independent):
    lines = independent.records(index=[10, 20, 30, 40, 50, 60])
    assert lines[2] == {
        "index": 30,
        "label": 0,
        "prediction": 0,
        "broken_by": "second",
        "loss": pytest.approx(math.log(2)),  # two equal logits
        "margin": 0.5,
        "norm": 0.25,
        "forward": 2001 + 2300,
        "backward": 201 + 200 + 230,
        "queries": 2020,
    }
    assert [line["index"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert [line["broken_by"] for line in lines] == independent.broken_by()
    with pytest.raises(ValueError, match=r"zip\(\)"):
        independent.records(index=[1, 2])


def test_without_attacks_the_worst_case_is_clean():
    found = Verdicts.of([state([[]] * 6)], suite=Suite(name="none", attacks=()))
    assert (found.worst.passed, found.clean.passed) == (5, 5)
    assert found.attacks == {}
    assert found.broken_by() == [None] * 6
    assert found.records(index=list(range(6)))[3]["forward"] == 0
    assert found.seconds == {"clean": 1.0}


def test_standing_counts_a_block_on_its_way():
    found = count_robust(state())
    assert (found.claim, found.passed, found.of) == ("correct under every attack", 1, 6)


def test_survivors_after_so_many_passes():
    rows = state(survived=[[T], [F], [F], [F], [T], [F]], labels=[0] * 6, predictions=[0, 0, 0, 0, 1, 0])
    rows["forward"] = torch.tensor([[30], [1], [2], [30], [0], [3]])  # the fifth was wrong and never attacked
    suite = Suite(name="one", attacks=TRIALS[:1])
    found = Verdicts.of([rows], suite=suite).survivors()["first"]
    assert found[:4] == [[0, 5], [1, 4], [2, 3], [3, 2]]
    assert found[-1] == [30, 1]
    passes = [row[0] for row in found]
    assert all(a < b <= max(a + 1, 1.25 * a) for a, b in pairwise(passes))


def test_a_suite_on_survivors_begins_where_the_trial_before_ended(survivors, independent):
    assert {name: rows[0][1] for name, rows in survivors.survivors().items()} == {"first": 5, "second": 3, "third": 2}
    assert {name: rows[-1][1] for name, rows in survivors.survivors().items()} == {"first": 3, "second": 2, "third": 1}
    assert {rows[0][1] for rows in independent.survivors().values()} == {5}


def test_survivors_of_nobody_is_one_row():
    nobody = state(survived=[[F, F, F]], labels=[0], predictions=[1])
    assert Verdicts.of([nobody], suite=INDEPENDENT).survivors() == {
        name: [[0, 0]] for name in ("first", "second", "third")
    }
