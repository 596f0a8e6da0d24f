import numpy as np
import pytest

from overproof.errors import InputError
from overproof.formats.queries import Point, Query, number, parse_expressions, split_index

ONE = """
; a box, and an output that is not the largest
(declare-const X_0 Real)
(declare-const X_1 Real)
(assert (>= X_0 0.25))
(assert (<= X_0 0.5)) ; (assert (<= X_0 0.1))
(assert (and (>= X_1 -1e-1) (<= X_1 1)))
(assert (or (and (<= Y_0 Y_1)) (and (<= Y_0 Y_2) (>= Y_2 0))))
"""
TWO = """
(vnnlib-version <2.0>)
(declare-network f (declare-input X_f float32 [1,2]) (declare-output Y_f float32 [1,2]))
(declare-network g (declare-input X_g float32 [1,2]) (declare-output Y_g float32 [1,2]))
(assert (== X_f[0,0] X_g[0,0]))
(assert (>= (- (- Y_f[0,0] Y_f[0,1]) (+ Y_g[0,0] (* -1.0 Y_g[0,1]))) 0.5))
(assert (< (- Y_f[0,1]) 2.0))
"""


def one(x, y):
    return Query.read(ONE).satisfied_by(Point({"X": np.array(x)}, {"Y": np.array(y)}))


def two(x_f, x_g, y_f, y_g):
    inputs = {"X_f": np.array([x_f]), "X_g": np.array([x_g])}
    return Query.read(TWO).satisfied_by(Point(inputs, {"Y_f": np.array([y_f]), "Y_g": np.array([y_g])}))


class TestOne:
    @pytest.mark.parametrize(
        ("x", "y", "answer"),
        [
            ((0.25, 0.0), (1, 2, 0), True),
            ((0.5, 1.0), (1, 1, 0), True),  # a tie counts
            ((0.5, -0.1), (1, 0, 2), True),
            ((0.5, -0.1), (-2, -3, -1), False),  # the second case wants more
            ((0.5, 0.0), (3, 2, 1), False),
            ((0.24, 0.0), (1, 2, 0), False),
            ((0.3, 1.1), (1, 2, 0), False),
        ],
    )
    def test_every_assertion_must_hold(self, x, y, answer):
        assert one(x, y) is answer

    def test_bounds_of_pixels_forgive_float32_and_outputs_forgive_nothing(self):
        assert one((0.25 - 1e-7, 0.0), (1, 2, 0))
        assert not one((0.25 - 1e-5, 0.0), (1, 2, 0))
        assert not one((0.25, 0.0), (1, 1 - 1e-9, 0))

    def test_images_are_counted_in_row_major_order(self):
        x = np.array([[[0.3, 5.0]], [[1.0, 0.0]]]).transpose(0, 2, 1)  # X_0 = 0.3, X_1 = 5
        assert not Query.read(ONE).satisfied_by(Point({"X": x}, {"Y": np.array([1, 2, 0])}))
        x = np.array([[[0.3]], [[1.0]]])
        assert Query.read(ONE).satisfied_by(Point({"X": x}, {"Y": np.array([1, 2, 0])}))


class TestTwo:
    @pytest.mark.parametrize(
        ("y_f", "y_g", "answer"),
        [((1, 0), (0.5, 0), True), ((1, 0), (0.6, 0), False), ((0, -2), (0, 0), False), ((0, -1.9), (0, 0), True)],
    )
    def test_arithmetic(self, y_f, y_g, answer):
        assert two((0.1, 0.2), (0.1, 0.7), y_f, y_g) is answer

    def test_the_networks_see_the_same_pixel(self):
        assert not two((0.1, 0.2), (0.2, 0.2), (1, 0), (0, 0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(assert (<= X_0 1)", "a parenthesis is never closed"),
        ("(assert (<= X_0 1)))", "a parenthesis is closed that was never opened"),
        ("", "it asserts nothing"),
        ("(declare-const X_0 Real)", "it asserts nothing"),
        ("(assert X_0)", "X_0 is no statement"),
        ("(assert (<= X_0))", "'<=' is no comparison of two numbers"),
        ("(assert (implies X_0 X_1))", "'implies' is no comparison of two numbers"),
        ("(assert (<= (/ X_0 2) 1))", "/ is no operation on numbers"),
    ],
)
def test_text_that_is_no_query(text, said):
    point = Point({"X": np.zeros(2)}, {"Y": np.zeros(2)})
    with pytest.raises(InputError, match=r"^this is no VNN-LIB query: ") as caught:
        Query.read(text).satisfied_by(point)
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("variable", ["Z_0", "Z[0,1]", "pixels"])
def test_a_variable_without_a_number(variable):
    with pytest.raises(InputError, match=r"for which the point has no number$"):
        Query.read(f"(assert (<= {variable} 1))").satisfied_by(Point({"X": np.zeros(2)}, {"Y": np.zeros(2)}))


@pytest.mark.parametrize("variable", ["X_2", "X[0,5]"])
def test_an_index_that_is_outside(variable):
    with pytest.raises(InputError, match=r"but X has the shape \[(1, )?2\]$"):
        Query.read(f"(assert (<= {variable} 1))").satisfied_by(Point({"X": np.zeros((1, 2))}, {}))


def test_forms_are_nested_lists():
    assert parse_expressions("(a (b c) d) ; (e)\n(f)") == [["a", ["b", "c"], "d"], ["f"]]


@pytest.mark.parametrize(
    "form",
    [
        "(" * 100_000 + ")" * 100_000,
        "(and " * 5000 + "(<= X_0 1)" + ")" * 5000,
        "(<= X_" + "9" * 5000 + " 1)",
        "(<= X[" + "9" * 5000 + "] 1)",
        "(<= (-) 1)",
        "(<= (+ (+ 1 2) ()) 1)",
        "(<= (1 2) 1)",
        "(())",
        "(<= X_0 " + "1" * 10_000 + ")",
        "x\x1b[31m",
    ],
    ids=lambda value: value[:12],
)
def test_strange_text_is_one_short_line(form):
    point = Point(inputs={"X": np.zeros(1)}, outputs={"Y": np.zeros(1)})
    try:
        Query.read(f"(assert {form})").satisfied_by(point)
    except InputError as problem:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 500


def test_declarations_are_kept_and_other_statements_are_refused():
    read = Query.read("(set-logic QF_LRA)" + ONE)
    assert read.declarations == (["declare-const", "X_0", "Real"], ["declare-const", "X_1", "Real"])
    for text in ("(push)", "(assert (<= X_0 1) (<= X_0 2))", "word", "(assert)", "()"):
        with pytest.raises(InputError, match=r"is no statement$"):
            Query.read(ONE + text)
    deep = "(assert " + "(and " * 150 + "(<= X_0 1)" + ")" * 151
    assert len(Query.read(ONE + deep).assertions) == 5
    for many in (250, 200_000):  # at which the standard's own parser would end the process
        with pytest.raises(InputError, match=r"^the query: not readable as VNN-LIB \(nested too deeply\)$"):
            Query.read(ONE + deep.replace("(and ", "(and " * many))


def test_an_index_may_stand_apart():
    assert parse_expressions("(<= X [0, 3] Y[ 1 ] [2] 1)") == [["<=", "X[0, 3]", "Y[ 1 ][2]", "1"]]
    assert (
        split_index("X[0, 3]") == ("X", (0, 3))
        and split_index("X_3") == ("X", (3,))
        and split_index("X_f") == ("X_f", ())
    )


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("-.5", -0.5), ("+1.", 1.0), ("1E-3", 1e-3), ("nan", None), ("1_0", None)]
)
def test_numbers(text, value):
    assert number(text) == value


def test_a_large_input_is_forgiven_what_float32_rounds_it_by():
    query = Query.read("(assert (== X_0 60760.123456))")
    rounded = float(np.float32(60760.123456))
    assert rounded != 60760.123456
    assert query.satisfied_by(Point({"X": np.array([rounded])}, {}))
    assert not query.satisfied_by(Point({"X": np.array([rounded + 0.1])}, {}))
