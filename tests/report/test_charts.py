import pytest

from overproof.report.charts import brackets, of_run, per_class, planes, radii, survivors
from overproof.report.findings import Findings
from overproof.report.table import tables


def test_the_plane_has_a_point_per_row_and_one_per_seed(full):
    found = tables([full("a-0"), full("a-1", seed=1, robust=120), full("b", method="kd")])
    (plane,) = planes(found)
    first, second = plane["points"]
    assert (first["name"], first["seeds"], second["seeds"], second["runs"]) == ("a", 2, 1, [])
    assert first["runs"] == [["a-0", 0.9, 0.5], ["a-1", 0.9, 0.6]]
    assert first["worst"] == [pytest.approx(0.55), *found[0].rows[0].cells["worst"].interval]


def test_radii_join_what_was_found_of_one_network(full):
    at_8, at_4 = full("a"), full("a", threat={"norm": "linf", "eps": "4/255"}, robust=140)
    other = full("b", method="kd")
    charts = radii([at_8, at_4, other])
    assert list(charts) == ["digits, linf"]
    first, second = charts["digits, linf"]["series"]
    assert [point[:2] for point in first["attacked"]] == [
        [0.0, 0.9],
        [pytest.approx(4 / 255), 0.7],
        [pytest.approx(8 / 255), 0.5],
    ]
    assert [point[:2] for point in first["certified"]] == [[pytest.approx(4 / 255), 0.4]]
    assert second["name"] == "b"
    # The probe speaks of correctly classified images; a figure that was not finite, and eps 1, are left out.
    assert first["probe"] == [[0.0, 0.9], [0.0157, pytest.approx(0.72)], [0.0314, pytest.approx(0.45)]]


def test_a_line_between_two_points_alone_is_no_chart(finding):
    assert radii([finding()]) == {}


def test_norms_and_data_are_not_joined(full):
    charts = radii([full("a"), full("b", threat={"norm": "l2", "eps": "0.5"}), full("c", data__name="mnist")])
    assert list(charts) == ["digits, linf", "digits, l2", "mnist, linf"]
    assert charts["digits, l2"]["series"][0]["certified"] == []  # the certificate is in linf


def test_survivors_are_shares_of_all_images(full, finding):
    chart = survivors([full("a"), finding()], [0, 1])
    assert [(line["run"], line["attack"]) for line in chart["lines"]] == [("a", "fgsm"), ("a", "pgd-20")]
    assert chart["lines"][0]["rows"] == [[0, 0.9], [1, 0.75], [10, 0.505]]
    assert survivors([finding()], [0]) is None


def test_brackets_hold_both_ends(full, finding):
    (found,) = brackets([finding(), full("a")])["runs"]
    assert found["accuracy"] == [0.4, 0.6]
    assert found["gap"] == {side: [0.1, 0.4] for side in ("gap", "under", "over")}
    assert found["curve"] == [[0.1, pytest.approx(10 / 45), pytest.approx(40 / 45)]]
    assert brackets([finding()]) is None


def test_a_certificate_without_a_teacher_brackets_accuracy_alone(full):
    run = full()
    alone = Findings(evaluation=run.evaluation, certificate={**run.certificate, "teacher": None})
    (found,) = brackets([alone])["runs"]
    assert "gap" not in found
    assert found["accuracy"] == [0.4, 0.6]


def test_a_run_has_the_charts_it_has_data_for(full, finding):
    assert of_run(finding()) == {}
    charts = of_run(full())
    assert list(charts) == ["training", "selection", "controller", "reliability"]
    assert charts["training"]["terms"]["adv"] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert (charts["selection"]["epoch"], charts["selection"]["best"]) == ([2, 3], 2)
    # What does not move is no trajectory.
    assert charts["controller"]["lines"] == {
        "weights 1": [pytest.approx(0.4), pytest.approx(0.3), pytest.approx(0.2)],
        "weights 2": [pytest.approx(0.6), pytest.approx(0.7), pytest.approx(0.8)],
    }
    assert charts["reliability"]["parts"]["attacked"]["bins"] == [[0.0, 0.5, 0, None, None], [0.5, 1.0, 200, 0.8, 0.9]]


def test_a_term_that_begins_late_has_gaps(full):
    run = full()
    epochs = [dict(run.metrics[0], terms={"adv": 1.0}), *run.metrics[1:]]
    charts = of_run(Findings(evaluation=run.evaluation, metrics=epochs))
    assert charts["training"]["terms"]["clean"][0] is None


def test_per_class_counts_what_was_right_and_what_stayed_right(full, finding):
    zero, one = per_class(full())
    # Labels 0: indices 0 (wrong), 2, 4 (stand), 6 (broken); labels 1: 1, 3, 5 stand, 7 is broken.
    assert (zero["name"], zero["images"], zero["clean"].value, zero["worst"].value) == ("zero", 4, 0.75, 0.5)
    assert (one["name"], one["images"], one["clean"].value, one["worst"].value) == ("one", 4, 1.0, 0.75)
    assert per_class(finding()) == []
