import pytest

from overproof.evaluation.evidence import Evidence
from overproof.report.table import tables


def test_a_row_says_what_the_evaluation_found(evaluation):
    (table,) = tables([evaluation()])
    (row,) = table.rows
    assert table.title == "digits, 200 of 360 test images (01234567), linf eps 8/255"
    assert table.columns == ("clean", "fgsm", "pgd-20", "worst")
    assert (row.name, row.method, row.parameters) == ("toy", "ard", 1234567)
    assert {name: cell.share for name, cell in row.cells.items()} == {
        "clean": 0.9,
        "fgsm": 0.6,
        "pgd-20": 0.505,
        "worst": 0.5,
    }
    assert row.cells["worst"].interval == Evidence(claim="", passed=100, of=200).interval


def test_a_cell_reads_as_percent_with_its_interval():
    assert str(Evidence(claim="", passed=100, of=200)) == "50.0 [43.1, 56.9]"


@pytest.mark.parametrize(
    "change",
    [
        {"threat__eps": "4/255"},
        {"threat__norm": "l2"},
        {"data__name": "mnist"},
        {"data__digest": "fedcba9876543210"},
        {"data__examples": 100},
    ],
    ids=lambda change: next(iter(change)),
)
def test_different_footings_never_share_a_table(evaluation, change):
    found = tables([evaluation(), evaluation(run="other", **change), evaluation(run="third")])
    assert sorted([row.name for row in table.rows] for table in found) == [["other"], ["toy", "third"]]
    assert len({table.title for table in found}) == 2


def test_one_footing_is_one_table_in_the_order_given(evaluation):
    runs = [evaluation(run=name, method=name) for name in ("b", "a", "c")]
    (table,) = tables(runs)
    assert [row.name for row in table.rows] == ["b", "a", "c"]


def test_columns_are_the_union_of_attacks_and_a_gap_stays_a_gap(evaluation):
    other = evaluation(run="other", attacks={"square": evaluation()["attacks"]["fgsm"]})
    (table,) = tables([evaluation(), other])
    assert table.columns == ("clean", "fgsm", "pgd-20", "square", "worst")
    assert set(table.rows[0].cells) == {"clean", "fgsm", "pgd-20", "worst"}
    assert set(table.rows[1].cells) == {"clean", "square", "worst"}


def test_nothing_gives_no_table():
    assert tables([]) == []
