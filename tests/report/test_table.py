import math

import pytest
from scipy.stats import t

from overproof.report.findings import Findings
from overproof.report.table import tables


def labels(table):
    return [column.label for column in table.columns]


def cells(table, row):
    return {column.label: row.cells[column.key] for column in table.columns if column.key in row.cells}


def test_a_row_says_what_the_evaluation_found(finding):
    (table,) = tables([finding()])
    (row,) = table.rows
    assert table.title == "digits, 200 of 200 test images (01234567), linf eps 8/255"
    assert labels(table) == ["clean", "fgsm", "pgd-20", "worst case", "W-Robust", "parameters"]
    assert (row.name, row.method, row.places, row.members) == ("toy", "ard", (0,), ())
    assert cells(table, row)["pgd-20"].value == 0.505


@pytest.mark.parametrize(
    "change",
    [
        {"threat__eps": "4/255"},
        {"threat__norm": "l2"},
        {"data__digest": "fedcba9876543210"},
        {"data__examples": 100},
    ],
    ids=lambda change: next(iter(change)),
)
def test_different_footings_never_share_a_table(finding, change):
    found = tables([finding(), finding(run="other", **change), finding(run="third")])
    assert sorted([row.name for row in table.rows] for table in found) == [["other"], ["toy", "third"]]
    assert len({table.title for table in found}) == 2
    assert sorted(row.places for table in found for row in table.rows) == [(0,), (1,), (2,)]


def test_images_of_one_digest_under_two_names_are_one_data_set(finding):
    (table,) = tables([finding(), finding(run="other", data__name="ylecun/mnist"), finding(run="third")])
    assert [row.name for row in table.rows] == ["toy", "other", "third"]
    assert " = ylecun/mnist, " in table.title


def test_one_footing_is_one_table_in_the_order_given(finding):
    (table,) = tables([finding(run=name, method=name) for name in ("b", "a", "c")])
    assert [row.name for row in table.rows] == ["b", "a", "c"]


def test_columns_are_the_union_of_attacks_and_a_gap_stays_a_gap(finding, evaluation):
    other = finding(run="other", attacks={"square": evaluation()["attacks"]["fgsm"]})
    (table,) = tables([finding(), other])
    assert labels(table) == ["clean", "fgsm", "pgd-20", "square", "worst case", "W-Robust", "parameters"]
    assert "square" not in cells(table, table.rows[0])
    assert "fgsm" not in cells(table, table.rows[1])


def test_two_attacks_of_one_name_have_two_labels(evaluation):
    found = [evaluation(run=name) for name in "ab"]
    found[1]["attacks"]["fgsm"]["trial"] = {"steps": 7}
    (table,) = tables([Findings(evaluation=one) for one in found])
    assert [label for label in labels(table) if "fgsm" in label] == ["fgsm", "fgsm (2)"]


def test_nothing_gives_no_table():
    assert tables([]) == []


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_seeds_are_one_row_with_students_interval(full):
    robust = (80, 100, 120)
    (table,) = tables([full(f"mine-{seed}", seed=seed, robust=count) for seed, count in enumerate(robust)])
    (row,) = table.rows
    assert (row.name, row.places, [member.name for member in row.members]) == (
        "mine",
        (0, 1, 2),
        ["mine-0", "mine-1", "mine-2"],
    )
    worst = cells(table, row)["worst case"]
    half = t.ppf(0.975, 2) * 0.1 / math.sqrt(3)  # the deviation of 0.4, 0.5, 0.6 is 0.1
    assert worst.value == pytest.approx(0.5)
    assert worst.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert cells(table, row)["parameters"].value == 1234567
    assert cells(table, row)["training minutes"].interval is None
    assert table.has_seeds


def test_equal_seeds_are_no_narrower_than_the_images_allow(full):
    (table,) = tables([full(f"mine-{seed}", seed=seed) for seed in (0, 1)])
    (row,) = table.rows
    assert cells(table, row)["worst case"].interval == pytest.approx(
        cells(table, row.members[0])["worst case"].interval
    )


def test_an_interval_of_shares_ends_at_nothing_and_everything(full):
    (table,) = tables([full(f"mine-{seed}", seed=seed, robust=count) for seed, count in enumerate((1, 170))])
    assert cells(table, table.rows[0])["worst case"].interval == (0.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 0},  # the same seed twice is no second seed
        {"seed": 1, "recipe": {"training": {"epochs": 3}}},
        {"seed": 1, "selected_on": "test"},
        {"seed": 1, "method": "kd"},
    ],
    ids=str,
)
def test_what_differs_in_more_than_the_seed_is_another_row(full, other):
    (table,) = tables([full("mine-0"), full("mine-1", **other)])
    assert [row.members for row in table.rows] == [(), ()]


def test_without_a_recipe_nothing_is_known_to_be_the_same(finding):
    (table,) = tables([finding(recipe_seed=0), finding(recipe_seed=1)])
    assert len(table.rows) == 2


def test_a_figure_of_some_seeds_says_of_how_many(full):
    one, other = full("mine-0", seed=0), full("mine-1", seed=1)
    without = Findings(evaluation={**other.evaluation, "calibration": None}, recipe=other.recipe)
    (table,) = tables([one, without])
    assert cells(table, table.rows[0])["ECE"].note == "1 of 2 seeds"
    assert cells(table, table.rows[0])["certified linf 4/255"].note == "50 images; 1 of 2 seeds"


@pytest.mark.parametrize(("names", "expected"), [(("a-0", "a-1"), "a"), (("a-0", "b-1"), "ard"), (("0", "1"), "ard")])
def test_the_name_of_seeds(full, names, expected):
    (table,) = tables([full(name, seed=seed) for seed, name in enumerate(names)])
    assert table.rows[0].name == expected


def test_not_a_number_stays_one_and_is_never_best(full):
    found = [full(f"mine-{seed}", seed=seed) for seed in (0, 1)]
    found[1].evaluation["calibration"]["clean"]["ece"] = math.nan
    (table,) = tables([*found, full("other", method="kd")])
    assert math.isnan(cells(table, table.rows[0])["ECE"].value)
    assert cells(table, table.rows[0])["ECE"].interval is None
    assert "ece" not in table.best


# --- the best ---------------------------------------------------------------------------------------------------------


def best(*counts, **changes):
    def of(passed):
        return {"claim": "", "passed": passed, "of": 200}

    return [
        {
            "run": str(place),
            "clean": of(passed),
            "attacks": {"fgsm": of(passed)},
            "worst": of(passed),
            **changes.get(f"_{place}", {}),
        }
        for place, passed in enumerate(counts)
    ]


def test_best_is_beyond_every_other_interval(finding):
    (table,) = tables([finding(**one) for one in best(100, 180, 120)])
    assert {key.split(" {")[0].split(" [")[0]: row for key, row in table.best.items()} == {
        "clean": 1,
        "attack fgsm": 1,
        "worst": 1,
        "w_robust": 1,
    }


def test_intervals_that_overlap_leave_nobody_best(finding):
    (table,) = tables([finding(**one) for one in best(100, 105, 20)])
    assert table.best == {}
    (table,) = tables([finding(**one) for one in best(100)])
    assert table.best == {}


def test_under_unlike_attacks_no_worst_case_is_best(finding):
    one, other = best(100, 180)
    other["attacks"] = {"square": other["attacks"]["fgsm"]}
    (table,) = tables([finding(**one), finding(**other)])
    assert set(table.best) == {"clean"}


def test_what_a_headline_lacks_in_every_row_is_named(full, finding):
    (nothing,), (mixed,) = tables([finding()]), tables([full(), finding(run="other")])
    assert nothing.not_run == ("certified", "ECE", "agreement", "confidence gap")
    assert mixed.not_run == ()  # the empty cells of the other row say it
