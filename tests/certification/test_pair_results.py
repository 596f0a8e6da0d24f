import json
import math

import pytest
import torch

from overproof.certification.cascade import FALSIFIED, PROBLEMS, UNKNOWN, VERIFIED
from overproof.certification.pair_results import GapBounds
from overproof.errors import InputError


def state(agreement, attacked, proven, correct=None):
    """Return the state of examples whose student is less sure by these gaps, and surer by 0.1 less."""
    count = len(agreement)
    low, high = torch.tensor(attacked), torch.tensor(proven)
    values = {"attacked": low, "separate": high + 0.2, "joint": high + 0.1, "proven": high}
    return {
        "correct": torch.tensor(correct or count * [True]),
        **{f"under_{kind}": value for kind, value in values.items()},
        **{f"over_{kind}": value - 0.1 for kind, value in values.items()},
        "agreement": torch.tensor(agreement),
        "image": torch.zeros(count, 1, 2, 2),
        "problem": torch.zeros(count, dtype=torch.int64),
        "cost": torch.full((count,), 0.5, dtype=torch.float64),
    }


FIRST = state([VERIFIED, VERIFIED, UNKNOWN], [0.05, 0.3, 0.05], [0.15, 0.4, 0.15])
SECOND = state([FALSIFIED, UNKNOWN], [0.0, math.nan], [0.1, math.nan], [True, False])


def test_shares_are_proven_below_and_not_refuted_above():
    found = GapBounds.of([FIRST, SECOND]).plain([0.3, 0.1, 0.2, 0.5])
    assert (found["examples"], found["of"]) == (4, 5)
    agreement = found["agreement"]
    assert (agreement["proven"]["passed"], agreement["standing"]["passed"], agreement["proven"]["of"]) == (2, 3, 4)
    assert [one["gamma"] for one in found["curve"]] == [0.1, 0.2, 0.3, 0.5]
    assert [one["proven"]["passed"] for one in found["curve"]] == [0, 1, 1, 2]
    assert [one["standing"]["passed"] for one in found["curve"]] == [2, 2, 3, 3]
    assert found["curve"][0]["proven"]["claim"] == "same class and a gap of at most 0.1: proven"


def test_means_are_over_what_the_teacher_knows():
    found = GapBounds.of([FIRST, SECOND]).plain()
    assert found["gap"]["attacked"] == pytest.approx((0.05 + 0.3 + 0.05 + 0.0) / 4)
    assert found["gap"]["proven"] == found["under"]["proven"] == pytest.approx((0.15 + 0.4 + 0.15 + 0.1) / 4)
    assert found["over"]["proven"] == pytest.approx(found["under"]["proven"] - 0.1)
    assert found["gap"]["separate"] > found["gap"]["joint"] > found["gap"]["proven"] > found["gap"]["attacked"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_record_per_example_none_where_the_teacher_is_wrong():
    lines = GapBounds.of([FIRST, SECOND]).where_correct()
    assert [line is None for line in lines] == [False, False, False, False, True]
    assert lines[0]["agreement"] == "verified"
    assert lines[3]["agreement"] == "falsified"
    assert lines[1]["under_attacked"] == pytest.approx(0.3)
    assert lines[1]["over_proven"] == pytest.approx(0.3)
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines


def test_every_error_is_counted_whatever_it_is():
    failed = {**FIRST, "problem": torch.tensor([1, 0, 3])}
    assert GapBounds.of([failed, SECOND]).plain()["errors"] == 2
    assert GapBounds.of([FIRST, SECOND]).plain()["errors"] == 0
    assert [line and line["problem"] for line in GapBounds.of([failed]).where_correct()] == [
        PROBLEMS[1],
        None,
        PROBLEMS[3],
    ]


def test_bad_input():
    with pytest.raises(InputError, match=r"a gamma is a difference of confidences, in \[0, 1\]"):
        GapBounds.of([FIRST]).plain([0.1, 1.5])
    with pytest.raises(InputError, match="the teacher is right about none of 2 images"):
        GapBounds.of([state([UNKNOWN] * 2, [0.0] * 2, [0.0] * 2, [False, False])])


def test_the_smallest_and_the_largest_gamma_are_allowed():
    assert [one["gamma"] for one in GapBounds.of([FIRST]).plain([0.0, 1.0])["curve"]] == [0.0, 1.0]
    for gamma in (-1e-3, 1.001):
        with pytest.raises(InputError, match="a gamma is a difference of confidences"):
            GapBounds.of([FIRST]).plain([gamma])
