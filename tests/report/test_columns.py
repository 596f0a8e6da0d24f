import csv
import math
from io import StringIO

import pytest

from overproof.report.columns import FIXED, Cell, columns_of, marks_of
from overproof.report.findings import Findings
from overproof.report.table import tables
from overproof.report.text import as_csv
from overproof.statistics import Proportion


def figures(found):
    return {column.label: cell for column, cell in columns_of(found).values()}


def test_a_full_run_has_every_figure(full):
    found = figures(full())
    assert {label: round(cell.value, 6) for label, cell in found.items()} == {
        "clean": 0.9,
        "fgsm": 0.505,
        "pgd-20": 0.505,
        "worst case": 0.5,
        "W-Robust": 0.7,
        "certified linf 4/255": 0.4,
        "ECE": 0.1,
        "ECE attacked": 0.2,
        "agreement": 0.95,
        "agreement attacked": 0.75,
        "confidence gap": 0.05,
        "confidence gap attacked": 0.15,
        "parameters": 1234567,
        "multiply-adds": 4321,
        "training minutes": 1.5,
        "training passes": 60,
    }
    assert found["certified linf 4/255"].note == "50 images"  # of 200 that were attacked


def test_what_was_not_run_is_absent(finding):
    assert list(figures(finding())) == ["clean", "fgsm", "pgd-20", "worst case", "W-Robust", "parameters"]


def test_intervals_are_wilsons_and_w_robust_has_half_of_both(finding):
    found = figures(finding())
    clean, worst = (Proportion(claim="", passed=passed, of=200).interval for passed in (180, 100))
    assert found["clean"].interval == clean
    assert found["worst case"].interval == worst
    assert found["W-Robust"].interval == pytest.approx(((clean[0] + worst[0]) / 2, (clean[1] + worst[1]) / 2))
    assert found["parameters"].interval is None


def test_a_certificate_at_another_radius_or_of_a_smoothed_network_is_another_column(full):
    one, other = full(), full()
    smoothed = {**other.certificate, "kind": "smoothing", "threat": {"norm": "l2", "eps": "0.5"}}
    assert "certified l2 0.5 (smoothed)" in figures(Findings(evaluation=other.evaluation, certificate=smoothed))
    assert columns_of(one).keys() != columns_of(Findings(evaluation=other.evaluation, certificate=smoothed)).keys()


def test_the_same_word_for_another_search_is_another_column(evaluation):
    def keys(**trial):
        found = evaluation()
        found["attacks"]["fgsm"]["trial"] = {"name": "fgsm", **trial}
        return [key for key in columns_of(Findings(evaluation=found)) if "fgsm" in key]

    assert keys(steps=1) == keys(steps=1) != keys(steps=2)


def test_in_a_suite_on_survivors_it_matters_what_came_before(evaluation):
    first = evaluation(suite__survivors=True)
    second = {**first, "attacks": dict(reversed(first["attacks"].items()))}
    one, other = (columns_of(Findings(evaluation=found)) for found in (first, second))
    assert [column.about for column, _ in one.values()][1:3] == [
        "Accuracy after fgsm.",
        "Accuracy after pgd-20, on what fgsm left.",
    ]
    assert len({key for key in (*one, *other) if key.startswith("attack ")}) == 4


def test_marks_say_what_must_be_known(evaluation):
    assert marks_of(evaluation()) == ()
    assert marks_of(evaluation(selected_on="test")) == ("selected on: test",)
    assert marks_of(evaluation(selected_on="unknown", suite={"name": "quick", "caution": "an upper estimate"})) == (
        "selected on: unknown",
        "quick: an upper estimate",
    )
    assert marks_of(evaluation(reliability={"result": "fail"})) == ("reliability: fail",)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("clean", 0.12345, "12.3"),
        ("clean", math.nan, "NaN"),
        ("ece", 0.01234, "0.012"),
        ("parameters", 53090, "53,090"),
        ("multiply_adds", 2_460_000, "2.5 M"),
        ("multiply_adds", 999_960_000, "1000.0 M"),
        ("multiply_adds", 5_241_000_000, "5.24 G"),
        ("minutes", 7.66, "7.7"),
        ("ece", math.inf, "NaN"),
    ],
)
def test_a_figure_is_written_by_its_unit(key, value, text):
    assert FIXED[key].text(Cell(value=value)) == text


def test_a_range(finding):
    assert FIXED["clean"].range(Cell(value=0.5, interval=(0.25, 1.0))) == "25.0–100.0"
    assert FIXED["clean"].range(Cell(value=0.5)) == ""


def test_no_examples_are_no_number():
    assert math.isnan(Cell.of({"claim": "", "passed": 0, "of": 0}).value)


UNEQUAL = [
    {"class": "cat", "of": 150, "clean": 150, "worst": 75},
    {"class": "=dog", "of": 50, "clean": 25, "worst": 0},
]


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_unequal(finding):
    cells = columns_of(finding(per_class=UNEQUAL))
    assert (cells["balanced"][1].value, cells["balanced_worst"][1].value) == (0.75, 0.25)
    equal = [{**one, "of": 100 + number} for number, one in enumerate(UNEQUAL)]
    for classes in (equal, [], None):
        assert "balanced" not in columns_of(finding(per_class=classes))
    labels = [column.label for column in tables([finding(per_class=UNEQUAL)])[0].columns]
    assert labels.index("balanced clean") == labels.index("W-Robust") + 1


def test_counts_of_classes_are_columns_of_the_csv(finding):
    found = tables([finding(per_class=UNEQUAL), finding(run="older")])
    first, second = csv.DictReader(StringIO(as_csv(found)))
    if first["run"] == "older":
        first, second = second, first
    names = ("images", "correct clean", "correct in the worst case")
    assert [first[f"'=dog: {name}"] for name in names] == ["50", "25", "0"]
    assert second["cat: images"] == ""
    many = [{"class": str(number), "of": 1, "clean": 1, "worst": 1} for number in range(101)]
    assert "100: images" not in as_csv(tables([finding(per_class=many)]))


@pytest.mark.parametrize("level", ["fine", "suspect", "fail"])
def test_a_constant_answer_is_a_mark(finding, level):
    marks = marks_of(finding(answers={"level": level, "finding": "it answers one"}).evaluation)
    assert len(marks) == (level != "fine")
    assert ("answers one class for nearly all images" in marks) is (level == "fail")
