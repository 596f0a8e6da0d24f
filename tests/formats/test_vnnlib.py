import sys
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overproof.errors import InputError
from overproof.formats.queries import Point, Query
from overproof.formats.vnnlib import (
    box,
    check_version_2,
    decimal,
    disagreement,
    instances,
    margin_gap,
    pair_of_files,
    robustness,
)

X = torch.tensor([[[0.0, 0.5], [0.95, 0.3]]])
INSIDE = X.clamp(0.05, 0.9)
OUTSIDE = X + torch.tensor([[[0.0, 0.11], [0.0, 0.0]]])
LOGITS = [torch.tensor(values, dtype=torch.float64) for values in product((-1.0, 0.0, 2.0), repeat=3)]


def asked_one(text, x, y):
    return Query.read(text).satisfied_by(Point({"X": x.numpy()}, {"Y": y.numpy()}))


def asked_two(text, x, one, two, other=None):
    inputs = {"X_teacher": x[None].numpy(), "X_student": (x if other is None else other)[None].numpy()}
    return Query.read(text).satisfied_by(
        Point(inputs, {"Y_teacher": one[None].numpy(), "Y_student": two[None].numpy()})
    )


class TestRobustness:
    TEXT = robustness(X, 1, 3, 0.1)

    def test_it_is_satisfied_exactly_by_another_class_inside_the_box(self):
        for y in LOGITS:
            another = bool(max(y[0], y[2]) >= y[1])
            assert asked_one(self.TEXT, INSIDE, y) is another
            assert not asked_one(self.TEXT, OUTSIDE, y)

    def test_the_box_ends_at_0_and_1(self):
        assert "(assert (>= X_0 0.0))" in self.TEXT and "(assert (<= X_2 1.0))" in self.TEXT
        assert self.TEXT.count("declare-const X_") == 4 and self.TEXT.count("declare-const Y_") == 3

    def test_the_form_is_that_of_the_competition(self):
        tail = "(assert (or\n    (and (>= Y_0 Y_1))\n    (and (>= Y_2 Y_1))\n))\n"
        assert self.TEXT.endswith(tail)


class TestPair:
    DISAGREE = disagreement(X, 3, 0.1)
    GAP = margin_gap(X, 0, 3, 0.1, 1.5)

    @pytest.mark.parametrize("text", [DISAGREE, GAP])
    def test_the_standards_own_parser_takes_it(self, text):
        import vnnlib

        check_version_2(text, where="query")
        query = vnnlib.parse_query_string(text)
        assert [network.name for network in query.networks] == ["teacher", "student"]
        assert [list(part.shape) for network in query.networks for part in (*network.inputs, *network.outputs)] == [
            [1, 1, 2, 2],
            [1, 3],
        ] * 2
        assert len(query.assertions) == 3 * 4 + 1

    def test_disagreement_is_another_class_of_the_student_or_a_tie(self):
        for one, two in product(LOGITS, LOGITS):
            best = (one == one.max()).nonzero().flatten().tolist()
            apart = any(two[other] >= two[first] for first in best for other in range(3) if other != first)
            assert asked_two(self.DISAGREE, INSIDE, one, two) is bool(apart)

    def test_a_gap_is_a_difference_of_margins_in_either_direction(self):
        for one, two in product(LOGITS[::2], LOGITS[::2]):
            gaps = [abs((one[0] - one[other]) - (two[0] - two[other])) for other in (1, 2)]
            assert asked_two(self.GAP, INSIDE, one, two) is bool(max(gaps) >= 1.5)

    @pytest.mark.parametrize("text", [DISAGREE, GAP])
    def test_both_see_the_same_image_inside_the_box(self, text):
        one, two = torch.tensor([9.0, 0, 0]).double(), torch.tensor([0.0, 9, 0]).double()
        assert asked_two(text, INSIDE, one, two)
        assert not asked_two(text, INSIDE, one, two, other=X)
        assert not asked_two(text, OUTSIDE, one, two)


@given(st.floats(min_value=-1e6, max_value=1e6, allow_nan=False))
def test_a_decimal_reads_back_and_has_no_exponent(value):
    text = decimal(value)
    assert float(text) == value
    assert "e" not in text.lower() and "." in text


def test_the_box_is_exact_and_within_0_and_1():
    low, high = box(X, 0.1)
    assert low.dtype == torch.float64
    assert low.min() == 0 and high.max() == 1
    assert float(high[0, 0, 1]) == 0.6


def test_what_the_parser_does_not_take_is_refused():
    bad = disagreement(X, 3, 0.1).replace("Y_student[0,2]", "Y_student[0,3]")
    with pytest.raises(InputError, match=r"^query: not a VNN-LIB 2\.0 query \(.*IndexOutOfBounds"):
        check_version_2(bad, where="query")
    with pytest.raises(InputError, match=r"not a VNN-LIB 2\.0 query"):
        check_version_2(robustness(X, 1, 3, 0.1), where="query")


def test_without_the_parser_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(
        InputError, match=r"^query: checking queries needs the extra: pip install 'overproof\[export\]'$"
    ):
        check_version_2("", where="query")


def test_instances_read_as_csv_with_one_cell_for_two_networks():
    import csv

    text = instances([("onnx/a.onnx", "vnnlib/q.vnnlib", 300), (pair_of_files("t.onnx", "s.onnx"), "r.vnnlib", 5)])
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["onnx/a.onnx", "vnnlib/q.vnnlib", "300"]
    assert rows[1][1:] == ["r.vnnlib", "5"]
    assert eval(rows[1][0]) == [("teacher", "t.onnx"), ("student", "s.onnx")]
