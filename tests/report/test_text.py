import csv
import math
from io import StringIO

import pytest

from overproof.report.table import tables
from overproof.report.text import as_csv, as_latex, as_markdown, format_cell

HOSTILE = "a|b<i>&_\\x\n$1%{}"


def read(text):
    return list(csv.DictReader(StringIO(text)))


def test_csv_has_every_figure_in_full_and_every_footing(full, finding):
    found = tables([full("mine-0"), full("mine-1", seed=1, robust=120), finding(run="other", threat__eps="4/255")])
    lines = read(as_csv(found))
    assert [line["run"] for line in lines] == ["other", "mine", "mine-0", "mine-1"]
    assert [line["seeds"] for line in lines] == ["1", "2", "1", "1"]
    other, mean, first, _ = lines
    assert (float(first["worst case"]), float(mean["worst case"])) == (0.5, 0.55)
    assert float(first["clean low"]) == pytest.approx(found[1].rows[0].members[0].cells["clean"].interval[0], rel=1e-5)
    assert other["ECE"] == ""  # not run
    assert (first["multiply-adds"], first["footing"]) == ("4321", found[1].title)
    assert "multiply-adds low" not in first


def test_csv_quotes_what_is_hostile(finding):
    (line,) = read(as_csv(tables([finding(run=HOSTILE + '",=1')])))
    assert line["run"] == " ".join(HOSTILE.split()) + '",=1'  # a name is one line


def test_markdown_is_a_table_with_the_best_in_bold(finding, evaluation):
    low = {"claim": "", "passed": 10, "of": 200}
    text = as_markdown(tables([finding(), finding(run="low", clean=low, worst=low)]))
    lines = text.splitlines()
    assert lines[2].startswith("| run | method | clean | fgsm |")
    assert lines[3].count("|") == lines[2].count("|") == lines[4].count("|")
    assert "| **90.0 [85.1, 93.4]** |" in lines[4]
    assert "**" not in lines[5]
    assert "not run" not in text


def test_markdown_and_latex_escape_names(finding):
    markdown = as_markdown(tables([finding(run=HOSTILE)]))
    assert "a\\|b&lt;i&gt;&amp;\\_\\\\x $1%{}" in markdown
    latex = as_latex(tables([finding(run=HOSTILE)]))
    assert r"a|b<i>\&\_\textbackslash{}x \$1\%\{\}" in latex


def test_latex_is_a_booktabs_table(full):
    text = as_latex(tables([full("a"), full("b", method="kd", robust=10)]))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert len({line.count("&") for line in rows}) == 1
    assert rf"\begin{{tabular}}{{ll{'r' * (rows[0].count('&') - 1)}}}" in text
    assert r"\textbf{50.0 [43.1, 56.9]}" in rows[1]
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_marks_and_gaps_are_said_where_they_stand(finding, evaluation):
    other = finding(run="other", selected_on="test", attacks={"square": evaluation()["attacks"]["fgsm"]})
    (table,) = tables([finding(), other])
    square = next(column for column in table.columns if column.label == "square")
    assert format_cell(table.rows[0], square) == "not run"
    assert "other (selected on: test)" in as_markdown([table])
    assert "not run" in as_latex([table])


def test_not_a_number_is_said(full):
    run = full()
    run.evaluation["calibration"]["clean"]["ece"] = math.nan
    found = tables([run])
    assert read(as_csv(found))[0]["ECE"] == "NaN"
    assert "| NaN |" in as_markdown(found)
