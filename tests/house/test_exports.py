"""The front door: what ``overproof`` offers, and that it is all there."""

import inspect
from importlib import import_module

import pytest

import overproof


def test_all_is_the_sorted_list_of_public_names():
    assert overproof.__all__ == sorted(overproof.__all__)
    assert set(overproof.__all__) == set(overproof._HOMES)
    assert len(set(overproof.__all__)) == len(overproof.__all__)


def test_the_type_checker_sees_the_same_names(root):
    text = (root / "src" / "overproof" / "__init__.py").read_text()
    block = text.partition("if TYPE_CHECKING:")[2].partition("_HOMES")[0]
    names = [
        name.strip()
        for line in block.splitlines()
        if " import " in line
        for name in line.split(" import ")[1].split(",")
    ]
    assert sorted(names) == overproof.__all__


@pytest.mark.parametrize("name", overproof.__all__)
def test_every_name_resolves_to_its_home(name):
    found = getattr(overproof, name)
    assert found is getattr(import_module(overproof._HOMES[name]), name)
    assert inspect.getdoc(found)
    assert found.__module__ == overproof._HOMES[name]


def test_dir_knows_them_and_an_unknown_name_is_an_attribute_error():
    assert set(overproof.__all__) <= set(dir(overproof))
    with pytest.raises(AttributeError, match="module 'overproof' has no attribute 'trian'"):
        _ = overproof.trian


def test_every_verb_of_the_command_line_that_works_has_a_python_form():
    from overproof.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert verbs - {"list"} <= set(overproof.__all__)
    for group in app.registered_groups:
        if group.name == "recipe":  # shows and copies files, which Python does by itself
            continue
        for command in group.typer_instance.registered_commands:
            assert f"{command.name or command.callback.__name__}_{group.name}" in overproof.__all__
