import random
from itertools import product

import numpy as np
import pytest
import torch

from overproof.errors import InputError
from overproof.formats.properties import Sizes, networks_of, property_of
from overproof.formats.queries import Point, Query
from overproof.formats.vnnlib import disagreement, margin_gap, robustness

NET = Sizes("net.onnx", (2,), 3)
X = torch.tensor([[[0.0, 0.5], [0.95, 0.3]]])
BOX = "".join(f"(assert (>= X_{i} -1.5))(assert (<= X_{i} 2.5))" for i in range(2))


def declared(inputs=2, outputs=3):
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def found(asserts, box=BOX, files=(NET,), head=None):
    return property_of(Query.read((declared() if head is None else head) + box + asserts), files)


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        found(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


def rows(case):
    return [(row.tolist(), float(bias)) for row, bias in zip(case.weight, case.bias, strict=True)]


def box(case):
    return list(zip(case.lower.tolist(), case.upper.tolist(), strict=True))


class TestCases:
    def test_a_disjunction_of_conjunctions_of_outputs(self):
        read = found("(assert (or (and (>= Y_0 Y_1) (<= Y_2 4.5)) (and (<= (+ (* 2.0 Y_1) (- Y_2) -3) Y_0))))")
        first, second = read.cases
        assert rows(first) == [([1, -1, 0], 0.0), ([0, 0, -1], 4.5)]
        assert rows(second) == [([1, -2, 1], 3.0)]
        assert box(first) == box(second) == [(-1.5, 2.5)] * 2
        assert first.lower is second.lower  # of one box there is one copy
        assert all(part.dtype == torch.float64 for part in (first.lower, first.upper, first.weight, first.bias))

    def test_assertions_beside_each_other_must_all_hold(self):
        read = found("(assert (>= Y_0 1))(assert (or (>= Y_1 2) (>= Y_2 2)))(assert (or (<= Y_1 9) (<= Y_2 9)))")
        assert len(read.cases) == 4
        for case in read.cases:
            assert rows(case)[0] == ([1, 0, 0], -1.0) and len(case.bias) == 3

    def test_boxes_inside_a_disjunction(self):
        asserts = "(assert (or (and (>= X_0 0) (<= X_0 1) (>= Y_0 0)) (and (>= X_0 2) (>= Y_1 0)) (and (>= X_1 9))))"
        read = found(asserts)
        assert [box(case) for case in read.cases] == [[(0, 1), (-1.5, 2.5)], [(2, 2.5), (-1.5, 2.5)]]  # 9 is outside

    def test_bounds_of_an_input_in_every_form(self):
        asserts = "(assert (<= (* -2 X_0) -1))(assert (== (+ X_1 1) 1.25))(assert (and (<= 0 (- 2 X_0)) (>= Y_0 0)))"
        (case,) = found(asserts).cases
        assert box(case) == [(0.5, 2.0), (0.25, 0.25)]

    def test_an_equation_of_outputs_is_two_rows(self):
        (case,) = found("(assert (= Y_0 Y_1))").cases
        assert sorted(rows(case)) == [([-1, 1, 0], 0), ([1, -1, 0], 0)]

    def test_a_box_alone(self):
        (case,) = found("").cases
        assert case.weight.shape == (0, 3)

    def test_what_is_true_or_false_by_itself(self):
        (case,) = found("(assert (<= 1 2))(assert (or (<= 2 1) (>= (- Y_0 Y_0) 0)))").cases
        assert rows(case) == []
        assert found("(assert (<= 2 1))").cases == ()
        assert found("(assert (>= Y_0 (+ Y_0 1)))(assert (>= Y_1 0))").cases == ()
        assert (
            len(found("(assert (>= 0.30000 (+ 0.1 0.2)))(assert (== (* 3 1e-1) (+ .1 0.20000)))").cases) == 1
        )  # exactly
        assert len(found("(assert (>= 0 (* -1 1e-99999999999)))").cases) == 1

    def test_a_case_says_what_the_query_says_of_any_point(self):
        """Random nested assertions: some case holds exactly where the query, evaluated on the point, does."""
        draws = random.Random(0)

        def formula(depth):
            if depth and draws.random() < 0.7:
                return f"({draws.choice(['and', 'or'])} {' '.join(formula(depth - 1) for _ in range(3))})"
            sides = [f"Y_{draws.randrange(3)}", str(draws.randrange(-2, 3))]
            sides = [f"(* {draws.randrange(1, 3)} {sides[0]})", sides[1]] if draws.random() < 0.4 else sides
            sides[1] = f"(- Y_{draws.randrange(3)} {sides[1]})" if draws.random() < 0.5 else sides[1]
            if draws.random() < 0.3:
                sides = [f"X_{draws.randrange(2)}", str(draws.randrange(-1, 2))]
            return f"({draws.choice(['<=', '>='])} {' '.join(sides)})"

        answers, impossible = [], 0
        for _ in range(40):
            text = declared() + BOX + f"(assert {formula(3)})"
            points = list(product(product((-1.5, 0.5, 2.5), repeat=2), product((-2.0, 0.0, 1.0), repeat=3)))
            points = draws.sample(points, 60)
            said = [Query.read(text).satisfied_by(Point({"X": np.array(x)}, {"Y": np.array(y)})) for x, y in points]
            try:
                read = property_of(Query.read(text), (NET,))
            except InputError as problem:
                assert "box of inputs is empty" in str(problem)
                impossible += 1
                assert not any(said)
                continue
            for (x, y), wanted in zip(points, said, strict=True):
                inside, outputs = torch.tensor(x), torch.tensor(y)
                met = [number for number in range(len(read.cases)) if read.meets(number, outputs)]
                assert any(torch.equal(read.inside(number, inside), inside) for number in met) == wanted
                assert read.holds(inside, [outputs]) == wanted
            answers += said
        assert impossible < 15
        assert 0.2 < np.mean(answers) < 0.8


@pytest.mark.parametrize(
    ("asserts", "compares"),
    [
        ("(assert (or (and (>= Y_0 Y_1) (<= (* 2 Y_2) (* 2 Y_0))) (>= Y_1 Y_2)))", True),
        ("", True),
        ("(assert (>= Y_0 Y_1))(assert (>= Y_0 0.5))", False),
        ("(assert (>= Y_0 (* 2 Y_1)))", False),
        ("(assert (>= (+ Y_0 Y_1) (* 2 Y_2)))", False),
        ("(assert (>= (- Y_0 Y_1) 0.1))", False),
    ],
)
def test_whether_a_query_compares_outputs_alone(asserts, compares):
    assert found(asserts).compares == compares


class TestBox:
    def test_a_proof_is_about_more_and_a_witness_about_no_more_than_the_box(self):
        read = found("", box="(assert (>= X_0 0.1))(assert (<= X_0 0.3))(assert (== X_1 0.7))")
        (case,), ((low, high),) = read.cases, read.inner
        assert float(case.lower[0]) < 0.1 <= float(low[0]) and float(high[0]) <= 0.3 < float(case.upper[0])
        assert float(low[0]) == float(np.nextafter(np.float32(case.lower[0]), np.float32(1)))
        assert torch.equal(case.lower.float().double(), case.lower)
        assert float(low[1]) == float(high[1]) == float(np.float32(0.7))  # no float32 is 0.7
        assert float(case.lower[1]) < 0.7 < float(case.upper[1])
        assert read.inside(0, torch.tensor([9.0, 9.0])).tolist() == [float(high[0]), float(low[1])]

    def test_boxes_may_be_anywhere(self):
        read = found("", box="(assert (>= X_0 1e5))(assert (<= X_0 60760.5e1))(assert (== X_1 -60760.123456))")
        x = read.inside(0, torch.tensor([0.0, 0.0]))
        assert read.holds(x, [torch.zeros(3)])
        assert not read.holds(x - 1, [torch.zeros(3)])

    @pytest.mark.parametrize(
        ("bounds", "said"),
        [
            ("(assert (>= X_0 1))(assert (<= X_0 2))", "the query gives X_1 no lower bound"),
            ("(assert (>= X_0 1))" + BOX.replace("(assert (<= X_0 2.5))", ""), "the query gives X_0 no upper bound"),
            (BOX + "(assert (<= X_1 -3))", "the query's box of inputs is empty: X_1 is at least -1.5 and at most -3"),
            (BOX + "(assert (<= X_1 1e300))(assert (== X_0 1e60))", "box of inputs is empty"),
            (BOX.replace("2.5", "1e60"), "beyond what float32 can hold"),
            (BOX.replace("2.5", "1e999"), "has a number that is not finite"),
            (BOX.replace("2.5", "nan"), "the query has nan, which is not a finite number"),
            (BOX.replace("2.5", "-inf"), "the query has -inf, which is not a finite number"),
        ],
    )
    def test_what_is_no_box(self, bounds, said):
        assert said in refused("(assert (>= Y_0 0))", box=bounds)

    def test_an_input_that_only_some_cases_bound(self):
        asserts = "(assert (or (and (>= X_1 0) (<= X_1 1) (>= Y_0 0)) (>= Y_1 0)))"
        assert refused(asserts, box=BOX[: len(BOX) // 2]) == "the query gives X_1 no lower bound"
        asserts = "(assert (or (and (>= X_1 0) (<= X_1 1) (>= Y_0 0)) (and (== X_1 3) (>= Y_1 0))))"
        assert len(found(asserts, box=BOX[: len(BOX) // 2]).cases) == 2

    def test_boxes_that_are_all_empty(self):
        asserts = "(assert (or (and (>= X_0 9) (>= Y_0 0)) (and (<= X_0 -9) (>= Y_1 0))))"
        assert refused(asserts).startswith("the query's box of inputs is empty")


class TestRefused:
    @pytest.mark.parametrize(
        ("asserts", "said"),
        [
            ("(assert (< Y_0 Y_1))", "is strict, and a proof is about closed sets; write <="),
            ("(assert (or (> X_0 0.1) (>= Y_0 Y_1)))", "is strict, and a proof is about closed sets; write >="),
            ("(assert (>= (* Y_0 Y_1) 0))", "multiplies variables, so it is not linear"),
            ("(assert (>= (* 2 Y_0 X_1) 0))", "multiplies variables, so it is not linear"),
            ("(assert (>= (/ Y_0 2) 0))", "is no sum, difference or product, so it is not linear"),
            ("(assert (>= (max Y_0 Y_1) 0))", "is no sum, difference or product, so it is not linear"),
            ("(assert (!= Y_0 Y_1))", "is no comparison of two numbers by <=, >= or =="),
            ("(assert (>= Y_0 Y_1 Y_2))", "is no comparison of two numbers"),
            ("(assert (>= X_0 X_1))", "inputs are bounded one by one"),
            ("(assert (>= Y_0 X_1))", "inputs are bounded one by one"),
            ("(assert (>= Y_3 0))", "the query speaks of Y_3, but Y has the shape [3]"),
            ("(assert (>= Z_3 0))", "the query speaks of Z_3, which it does not declare"),
            ("(assert (>= Y_0 1e400))", "has a number that is not finite"),
            ("(assert (>= (* 1e300 1e300 Y_0) 1))", "has a number that is not finite"),
            ("(assert (>= Y_0 NaN))", "which is not a finite number"),
            ("(assert ())", "is no statement"),
            ("(assert (>= () 1))", "is not linear"),
            ("(assert (not (>= Y_0 1)))", "is no comparison of two numbers"),
            ("(assert (>= Y_0 0) (>= Y_1 0))", "is no statement"),
            ("(push)", "is no statement"),
            ("(assert (>= Y_0 " + "(+ 1 " * 5000 + "1" + ")" * 5000 + "))", "nested too deeply"),
        ],
    )
    def test_what_is_no_linear_query(self, asserts, said):
        assert said in refused(asserts)

    @pytest.mark.parametrize(
        ("head", "said"),
        [
            (declared(3), "the query is about 3 inputs, net.onnx has 2"),
            (declared(1), "the query is about 1 inputs, net.onnx has 2"),
            (declared(2, 4), "the query is about 4 outputs, net.onnx has 3"),
            (declared(2, 0), "the query is about 0 outputs, net.onnx has 3"),
            (declared().replace("Y_1", "Y_9"), "the query is about 3 of 10 outputs, net.onnx has 3"),
            (declared().replace("Y_1", "Y_2"), "the query declares Y_2 twice"),
            (declared().replace("X_1", "Z_1"), "which is neither an input X_i nor an output Y_i"),
            ("", "the query is about 0 inputs, net.onnx has 2"),
        ],
    )
    def test_another_number_of_inputs_or_outputs(self, head, said):
        assert said in refused("(assert (>= Y_0 0))", head=head)

    def test_cases_without_end(self):
        either = "(assert (or (>= Y_0 0) (>= Y_1 0)))"
        assert len(found(either * 10).cases) == 1024
        for many in (either * 60, f"(assert (and {either.replace('(assert ', '')[:-1] * 60}))"):
            assert refused(many).endswith("that is too many")


PAIR = (Sizes("t.onnx", (1, 2, 2), 3), Sizes("s.onnx", (1, 2, 2), 3))


class TestVersion2:
    def test_our_queries_are_read_back(self):
        """The box and every class's margin, as they were written."""
        one = property_of(Query.read(robustness(X, 1, 3, 0.1)), PAIR[:1])
        assert [rows(case) for case in one.cases] == [[([1, -1, 0], 0.0)], [([0, -1, 1], 0.0)]]
        lower, upper = (X.double() - 0.1).clamp(min=0).flatten(), (X.double() + 0.1).clamp(max=1).flatten()
        low, high = one.inner[0]
        for text in (disagreement(X, 3, 0.1), margin_gap(X, 0, 3, 0.1, 1.5)):
            two = property_of(Query.read(text), PAIR)
            assert torch.equal(two.inner[0][0], low) and torch.equal(two.inner[0][1], high)
        torch.testing.assert_close(low.double(), lower, rtol=0, atol=1e-7)
        torch.testing.assert_close(high.double(), upper, rtol=0, atol=1e-7)

    def test_a_pair_is_asked_about_both_outputs(self):
        gap = property_of(Query.read(margin_gap(X, 0, 3, 0.1, 1.5)), PAIR)
        assert len(gap.cases) == 4 and rows(gap.cases[0]) == [([1, -1, 0, -1, 1, 0], -1.5)]
        apart = property_of(Query.read(disagreement(X, 3, 0.1)), PAIR)
        assert len(apart.cases) == 6
        assert rows(apart.cases[0])[-1] == ([0, 0, 0, -1, 1, 0], 0.0)
        one, two = torch.tensor([2.0, 0, 0]), torch.tensor([0.0, 1, 0])
        x = apart.inside(0, X.flatten())
        held = [apart.meets(number, torch.cat([one, two])) for number in range(6)]
        assert any(held) and apart.holds(x, [one, two])
        assert apart.compares and not gap.compares
        crossed = disagreement(X, 3, 0.1).replace(
            "(>= Y_teacher[0,0] Y_teacher[0,1])", "(>= Y_teacher[0,0] Y_student[0,1])"
        )
        assert not property_of(Query.read(crossed), PAIR).compares
        assert not any(apart.meets(number, torch.cat([one, one])) for number in range(6))
        assert not apart.holds(x, [one, one])

    def test_one_network_and_spaces_before_an_index(self):
        text = (
            "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1, 2]) (declare-output Y float32 [3]))"
            "(assert (and (>= X [0, 0] 0.0) (<= X[0,0] 1.0) (== X[0, 1] 0.5)))(assert (>= Y[2] Y [0]))"
        )
        read = property_of(Query.read(text), (NET,))
        assert rows(read.cases[0]) == [([-1, 0, 1], 0.0)] and networks_of(read.query) == {"f": ""}
        assert read.witness(torch.tensor([0.25, 0.5]), [torch.tensor([1.0, 2, 3])]) == (
            "((X[0,0] 0.25)\n(X[0,1] 0.5)\n(Y[0] 1.0)\n(Y[1] 2.0)\n(Y[2] 3.0))\n"
        )

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("X_student[0,0,1,1] X_teacher[0,0,1,1]", "X_student[0,0,1,1] 0.5"), "nothing of X_teacher[0,0,1,1]"),
            (("(== X_student[0,0,1,1]", "(== X_student[0,0,1,0]"), "inputs are bounded one by one"),
            (("X_teacher float32 [1,1,2,2]", "X_teacher float32 [1,2,2,2]"), "t.onnx takes [1, 2, 2]"),
            (("X_teacher float32 [1,1,2,2]", "X_teacher float32 [4,1]"), "but X_teacher has the shape [4, 1]"),
            (("Y_student float32 [1,3]", "Y_student float32 [1,4]"), "about 4 outputs Y_student, s.onnx has 3"),
            (("Y_student float32", "Y_student int8"), "Y_student is of type int8, s.onnx of float32"),
            (("(declare-output Y_student", "(declare-hidden Y_student"), "known are one input and one output"),
            (("(declare-output Y_student float32 [1,3])", ""), "needs one input and one output"),
            (("declare-output Y_student", "declare-output Y_teacher"), "declares a variable twice"),
            (("(declare-network student", "(declare-network"), "names no network"),
            (("(declare-output Y_student float32 [1,3])", "(declare-output)"), "known are one input and one output"),
            (("(vnnlib", "(declare-const X_0 Real)(vnnlib"), "variables beside them"),
        ],
    )
    def test_a_pair_that_is_not_understood(self, change, said):
        text = disagreement(X, 3, 0.1)
        assert change[0] in text
        with pytest.raises(InputError) as caught:
            property_of(Query.read(text.replace(*change)), PAIR)
        assert said in str(caught.value)

    def test_other_numbers_of_files(self):
        with pytest.raises(InputError, match=r"^the query is about 2 networks, and 1 is given$"):
            property_of(Query.read(disagreement(X, 3, 0.1)), PAIR[:1])
        with pytest.raises(InputError, match=r"^the query is about one network, and 2 are given$"):
            property_of(Query.read(robustness(X, 1, 3, 0.1)), PAIR)
        other = Sizes("s.onnx", (1, 2, 3), 3)
        text = disagreement(X, 3, 0.1).replace("X_student float32 [1,1,2,2]", "X_student float32 [1,1,2,3]")
        with pytest.raises(InputError, match=r"t\.onnx takes 4 and s\.onnx takes 6 numbers$"):
            property_of(Query.read(text), (PAIR[0], other))


def test_a_witness_is_what_the_competition_reads_and_exact():
    read = found("(assert (>= Y_0 Y_1))")
    x, y = torch.tensor([0.1, -1.5]), torch.tensor([1e-30, 2.0, 3.25])
    text = read.witness(x, [y])
    assert text.startswith("((X_0 0.10000000149011612)\n(X_1 -1.5)\n(Y_0 1") and text.endswith("(Y_2 3.25))\n")
    numbers = [float(line.strip("()").split()[1]) for line in text.splitlines()]
    assert torch.equal(torch.tensor(numbers), torch.cat([x, y]))
