from pathlib import Path

import pytest
import yaml

from overproof import shipped
from overproof.errors import InputError
from overproof.recipe import read, whole_text
from overproof.shipped import find_recipe, recipe_folder, recipe_names, shipped_recipe


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
    (tmp_path / "recipes" / "toy" / "base.yaml").write_text("seed: 1")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "shipped.py"))
    assert recipe_folder() == tmp_path / "recipes"
    assert recipe_names() == ["toy/one"]
    assert shipped_recipe("toy/base") == tmp_path / "recipes" / "toy" / "base.yaml"
    assert shipped_recipe("toy/two") is None


def test_no_name_leads_out_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "secret.yaml").write_text("name: secret")
    (tmp_path / "recipes" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "shipped.py"))
    for name in ("../secret", str(tmp_path / "secret"), "link"):
        assert shipped_recipe(name) is None


def repeated(over, under):
    """Yield what a tree says that the tree below it says already."""
    if isinstance(over, dict) and isinstance(under, dict):
        if over.get("kind", under.get("kind")) == under.get("kind"):
            for key in set(over) & set(under):
                yield from repeated(over[key], under[key])
    elif over == under:
        yield over


class TestDifferences:
    """A shipped recipe is its difference from the one file of its data set."""

    @pytest.mark.parametrize("name", recipe_names())
    def test_each_has_the_base_of_its_folder_and_says_nothing_again(self, name):
        tree = yaml.safe_load(find_recipe(name).read_text())
        base = f"{name.partition('/')[0]}/base"
        assert tree.pop("base") == base
        assert list(repeated(tree, yaml.safe_load(find_recipe(base).read_text()))) == []

    @pytest.mark.parametrize("name", recipe_names())
    def test_its_whole_text_is_the_same_recipe_after_the_same_comments(self, name, tmp_path):
        file, copy = find_recipe(name), tmp_path / "copy.yaml"
        copy.write_text(whole_text(file))
        assert "base" not in yaml.safe_load(copy.read_text())
        assert read(copy) == read(file)
        assert read(copy).digest == read(file).digest
        comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
        assert comments
        assert copy.read_text().splitlines()[: len(comments)] == comments

    def test_a_base_cannot_be_trained(self):
        with pytest.raises(InputError, match=r"base\.yaml: key 'name' is missing$"):
            read(find_recipe("mnist/base"))
