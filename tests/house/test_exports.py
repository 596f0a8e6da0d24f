"""The front door: what ``overproof`` offers, and that it is all there."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import overproof

PACKAGES = [
    "overproof",
    *(f"overproof.{found.name}" for found in iter_modules(overproof.__path__) if found.ispkg and found.name != "cli"),
]
NAMES = [(package, name) for package in PACKAGES for name in import_module(package).__all__]
every_package = pytest.mark.parametrize("package", PACKAGES)


def test_every_package_has_public_names():
    assert len(PACKAGES) > 10 and all(name in PACKAGES for name in ("overproof.attacks", "overproof.commands"))
    assert {package for package, _ in NAMES} >= set(PACKAGES) - {"overproof.integrations"}


@every_package
def test_all_is_the_sorted_list_of_public_names(package):
    module = import_module(package)
    homes = getattr(module, "_HOMES", {})
    assert sorted(module.__all__) == sorted(homes)
    assert len(set(module.__all__)) == len(module.__all__)
    assert module.__doc__


@every_package
def test_the_type_checker_sees_the_same_names(package):
    """An import per name under ``TYPE_CHECKING``, from where the name is at home."""
    module = import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert seen == getattr(module, "_HOMES", {})


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_name_resolves_to_its_home(package, name):
    home = import_module(package)._HOMES[name]
    found = getattr(import_module(package), name)
    assert found is getattr(import_module(home), name)
    assert inspect.getdoc(found)
    assert found.__module__ == home


@every_package
def test_no_name_is_that_of_a_module(package):
    """Python binds a module to its package under its name, in the place of ours."""
    module = import_module(package)
    assert not set(module.__all__) & {found.name for found in iter_modules(module.__path__)}


@every_package
def test_dir_knows_them_and_an_unknown_name_is_an_attribute_error(package):
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'trian'"):
        _ = module.trian


def test_every_verb_of_the_command_line_that_works_has_a_python_form():
    from overproof.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert verbs - {"list"} <= set(overproof.__all__)
    for group in app.registered_groups:
        if group.name == "recipe":  # shows and copies files, which Python does by itself
            continue
        for command in group.typer_instance.registered_commands:
            assert f"{command.name or command.callback.__name__}_{group.name}" in overproof.__all__
