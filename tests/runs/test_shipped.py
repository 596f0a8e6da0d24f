from pathlib import Path

import pytest

from overproof.errors import InputError
from overproof.recipe import read
from overproof.runs import shipped
from overproof.runs.shipped import find_recipe, recipe_folder, recipe_names


def test_every_recipe_of_the_folder_has_a_name_and_is_found_by_it():
    names = recipe_names()
    assert names == sorted(names)
    assert {"digits/ard", "digits/teacher", "mnist/ard"} <= set(names)
    for name in names:
        assert find_recipe(name) == recipe_folder() / f"{name}.yaml"
        assert find_recipe(f"{name}.yaml") == find_recipe(name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name):
    assert read(find_recipe(name)).name


def test_recipes_of_different_names_do_not_share_a_run_folder():
    assert len({read(find_recipe(name)).name for name in recipe_names()}) == len(recipe_names())


def test_a_file_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    Path("digits/ard").write_text("mine")
    assert find_recipe("digits/ard") == Path("digits/ard")


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(InputError) as caught:
        find_recipe("digit/ard")
    assert str(caught.value) == (
        "no recipe file 'digit/ard', and no shipped recipe of this name (the nearest: digits/ard, digits/kd, digits/at)"
    )


def test_an_installed_package_carries_its_recipes(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "toy").mkdir(parents=True)
    (tmp_path / "recipes" / "toy" / "one.yaml").write_text("name: one")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "runs" / "shipped.py"))
    assert recipe_folder() == tmp_path / "recipes"
    assert recipe_names() == ["toy/one"]
