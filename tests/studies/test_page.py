"""Pages are their figures: a table by hand, a picture that is XML, and nothing that is not in the file."""

import copy
import json
import re
from xml.etree import ElementTree

import pytest
import yaml
from studies.grid import read_study
from studies.page import page, pages, svg, table
from tests.studies.test_grid import content

CLEAN = {"value": 0.9, "interval": [0.8, 0.95]}
RESULT = {
    "study": "toy",
    "command": "make study NAME=toy",
    "runs": [
        {"run": name, "seed": seed, "folder": f"{name}-{seed}", "teachers": {}, "cells": {}, "figures": figures}
        for name, seed, figures in (
            ("ard", 0, {"clean": {"value": 0.8}, "minutes": {"value": 2.0}, "kind": {"value": "ard"}}),
            ("ard", 1, {"clean": {"value": 0.82}, "minutes": {"value": 4.0}, "kind": {"value": "ard"}}),
            ("teacher", 0, {"clean": CLEAN, "minutes": {"value": 12345.0}, "kind": {"value": "pgd_at"}}),
        )
    ],
}
COLUMNS = {
    "clean": {"of": "quick", "at": "clean.share"},
    "minutes": {"of": "training", "at": "minutes", "as": "count"},
    "kind": {"of": "recipe", "at": "method.kind"},
}


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "toy.yaml"
    text = content(columns=COLUMNS, figure={"x": "minutes", "y": ["clean"]}, reading="We read <this>.")
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    return read_study(file)


def test_the_table_has_means_with_student_intervals_or_wilsons(study):
    # Two seeds: t(0.975, 1) = 12.706, s / sqrt(2) = 1 point, resp. 1 minute.
    assert table(study, RESULT).splitlines()[2:] == [
        "| `ard` | 2 | 81.0 ± 12.7 | 3 | ard |",
        "| `teacher` | 1 | 90.0 [80.0, 95.0] | 12,345 | pgd_at |",
    ]


def test_a_figure_changed_in_the_file_changes_the_page_and_the_picture(study):
    other = copy.deepcopy(RESULT)
    other["runs"][0]["figures"]["clean"]["value"] = 0.7
    assert page(study, RESULT, drawn=True) != page(study, other, drawn=True)
    assert svg(study, RESULT) != svg(study, other)


def test_students_of_a_teacher_that_was_trained_twice_are_told_apart(study):
    other = copy.deepcopy(RESULT)
    for run, digest in zip(other["runs"][:2], ("aaaaaaaa1", "bbbbbbbb2"), strict=True):
        run["teachers"] = {"robust": {"folder": "teacher-0", "model_digest": digest}}
    assert "Not one teacher: teacher-0" in page(study, other, drawn=True)
    other["runs"][1]["teachers"] = other["runs"][0]["teachers"]
    assert "Not one teacher" not in page(study, other, drawn=True)


def test_the_page_reads_and_links_its_picture(study):
    text = page(study, RESULT, drawn=True)
    assert "We read <this>." in text and "(figures/toy.svg)" in text and "not run yet" not in text.lower()


def test_without_figures_nothing_is_claimed(study):
    empty = RESULT | {"runs": []}
    assert svg(study, empty) == ""
    assert "Not run yet" in page(study, empty, drawn=False)


def test_the_picture_is_whole_and_needs_nothing_else(study):
    drawn = svg(study, RESULT)
    root = ElementTree.fromstring(drawn)
    circles = root.findall("{*}circle")
    assert len(circles) == 2
    assert re.findall(r"https?://[^\"]+", drawn) == ["http://www.w3.org/2000/svg"]
    _, _, width, height = map(float, root.get("viewBox").split())
    for circle in circles:
        assert 0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height
    # The teacher is the more accurate of the two: higher up.
    assert float(circles[1].get("cy")) < float(circles[0].get("cy"))


def test_the_pages_of_a_folder(study, tmp_path):
    (tmp_path / "results").mkdir()
    before = pages(tmp_path, tmp_path / "results", tmp_path)
    assert "not run yet" in before[tmp_path / "index.md"]
    (tmp_path / "results" / "toy.json").write_text(json.dumps(RESULT))
    after = pages(tmp_path, tmp_path / "results", tmp_path)
    assert "| 3 of 3 runs |" in after[tmp_path / "index.md"]
    assert set(after) == {tmp_path / "index.md", tmp_path / "study-toy.md", tmp_path / "figures" / "toy.svg"}
