"""What two versions answer is compared, but for what changes from run to run."""

from pathlib import Path

import pytest
from reliability.behaviour import differences, lasting, place


def test_what_changes_from_run_to_run_is_left_out_and_nothing_else():
    found = {"worst": {"passed": 3, "seconds": 0.4}, "versions": {"torch": "1"}, "rows": [{"cost": 1, "class": "a"}]}
    assert lasting(found) == {"worst": {"passed": 3}, "rows": [{"class": "a"}]}
    for name in ("clean", "threat", "per_class", "calibration", "reliability", "suite", "data", "counts", "lower"):
        assert lasting({name: 1}) == {name: 1}


@pytest.mark.parametrize(
    ("now", "before", "where"),
    [
        ({"a": 1}, {"a": 2}, ["/a: 1 now, 2 before"]),
        ({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "y"}]}, ["/a/1/b: 'x' now, 'y' before"]),
        ({"a": 1}, {"b": 1}, ["/a: only now", "/b: only before"]),
        ([1, 2], [1], [": [1, 2] now, [1] before"]),
        ({"a": 0.1}, {"a": 0.1 + 1e-9}, ["/a: 0.1 now, 0.100000001 before"]),
        ({"a": 0.1}, {"a": 0.1 + 1e-15}, []),
        ({"a": True}, {"a": True}, []),
    ],
)
def test_every_place_that_differs_is_named(now, before, where):
    assert list(differences(now, before)) == where


def test_a_place_is_known_by_its_question_without_its_key():
    file = Path("ard/evaluations/quick-linf-0-2-40-images-0123456789ab/evaluation.json")
    assert place(file) == Path("ard/evaluations/quick-linf-0-2-40-images/evaluation.json")
    assert place(Path("ard/evaluation.json")) == Path("ard/evaluation.json")
