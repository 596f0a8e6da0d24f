"""Shipped recipes have the settings that their papers publish, or a difference that is written down with its reason."""

import sys
from pathlib import Path

import pytest

from overproof.shipped import recipe_names

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))  # where Python looks first for a script's neighbours
try:
    from published_pages import is_same, papers, value_in_recipe
finally:
    sys.path.remove(str(ROOT / "docs"))

SETTINGS = [setting for _, settings in papers().values() for setting in settings]
# Of this project, of no one paper, or carried over from CIFAR, which their own first lines say.
OWN = {"at", "natural", "fast_ard", "rslad-idbh", "speedrun-alone", "speedrun-student", "speedrun-teacher"}
FOLDERS = ("cifar10", "cifar100", "restricted-imagenet")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.recipe}:{setting.key}")
def test_a_recipe_has_what_is_published_or_the_difference_that_is_written_down(setting):
    here = value_in_recipe(setting.recipe, setting.key)
    assert is_same(here, setting.here), f"{setting.recipe} has {setting.key}: {here!r}, not {setting.here!r}"
    assert bool(setting.why) != is_same(setting.published, setting.here)


def test_every_recipe_of_a_paper_is_in_the_table():
    known = {setting.recipe for setting in SETTINGS}
    papers_own = {name for name in recipe_names() if name.split("/")[0] in FOLDERS and name.split("/")[1] not in OWN}
    assert papers_own - known == set()


def test_the_table_says_how_long_and_how_strongly_every_one_of_them_trains():
    keys = {}
    for setting in SETTINGS:
        keys.setdefault(setting.recipe, set()).add(setting.key)
    for recipe, known in keys.items():
        assert "training.epochs" in known, recipe
        if recipe != "cifar10/kd":
            assert "training.optimiser.weight_decay" in known, recipe


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        ("8/255", "8/255", True),
        ("2/255", "3/255", False),
        (1, "1", True),
        (0.1, "0.1", True),
        ([100, 150.0], (100, 150), True),
        ([100], [], False),
        ("ard", "ard", True),
        ("ard", "igdm", False),
        (True, True, True),
        (None, None, True),
    ],
)
def test_numbers_are_the_same_whatever_way_they_are_written(value, other, same):
    assert is_same(value, other) is same
