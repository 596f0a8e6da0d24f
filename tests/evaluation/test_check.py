import json
from math import inf, nan

from overproof.evaluation.check import Check


def test_figures_that_are_no_numbers_are_none():
    check = Check(name="a", level="suspect", finding="b.", figures={"x": 0.5, "y": nan, "z": -inf})
    assert json.loads(json.dumps(check.plain(), allow_nan=False)) == {
        "name": "a",
        "level": "suspect",
        "finding": "b.",
        "figures": {"x": 0.5, "y": None, "z": None},
    }
