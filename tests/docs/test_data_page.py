"""Every cell of the table of data names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "data.md").read_text()
TESTS = dict(re.findall(r"^(\d+)\. `(.+)`$", PAGE, flags=re.MULTILINE))
TABLE = [line for line in PAGE.splitlines() if line.startswith("|") and line.count("|") == 7]
OUTSIDE = {"–", "the names of folders", "see above"}  # cells that claim nothing of the code's own


def test_the_table_has_a_column_for_every_source():
    from overproof.recipe import SOURCES

    assert {cell.strip() for cell in TABLE[0].split("|")[2:-1]} == set(SOURCES)
    assert len(TABLE) > 30


def test_every_cell_names_a_test_of_the_list():
    for line in TABLE[2:]:
        for cell in line.split("|")[2:-1]:
            named = re.findall(r"\[(\d+)\]", cell)
            assert set(named) <= set(TESTS), cell
            assert named or cell.strip() in OUTSIDE, cell


def test_every_test_of_the_list_is_named():
    assert list(TESTS) == [str(number) for number in range(1, len(TESTS) + 1)]
    assert set(TESTS) == set(re.findall(r"\[(\d+)\]", PAGE))


@pytest.mark.parametrize("test", TESTS.values())
def test_the_tests_exist(test):
    file, *names = test.split("::")
    body = ast.parse((ROOT / file).read_text()).body
    for name in names:
        (found,) = [node for node in body if getattr(node, "name", "") == name]
        body = found.body
    assert isinstance(found, ast.FunctionDef)
