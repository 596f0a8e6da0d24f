"""Importing what a word names, ``package.module:name``, with one sentence for every way in which that fails."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from textwrap import shorten
from types import ModuleType
from typing import Any

from overproof.errors import InputError, nearest
from overproof.trust import ZOOS


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Look for modules in the folders first, as ``python -m`` does; the search path is given back."""
    places = [str(folder.absolute()) for folder in folders]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)


def imported(word: str) -> Any:
    """Return what ``package.module:name`` names; the current folder is looked into, too. Raises ``InputError``."""
    path, _, name = word.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in path.split("."))):
        raise InputError(f"{word}: write package.module:name")
    with importable(Path.cwd()):
        module = _module(path, word)
        if not hasattr(module, name):
            public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise InputError(f"{word}: {module.__name__} has no {name!r}{like(name, public)}")
        return getattr(module, name)


def _module(path: str, word: str) -> ModuleType:
    try:
        return import_module(path)
    except (Exception, SystemExit) as problem:  # a script without a guard may exit
        missing = problem.name or "" if isinstance(problem, ModuleNotFoundError) else ""
        # Either a part of the path is missing, or something that the module itself wants to import.
        if missing and f"{path}.".startswith(f"{missing}."):
            hint = like(missing, _beside(missing))
            raise InputError(f"{word}: no module {missing!r} in this folder or installed{hint}") from problem
        raise InputError(f"{word}: importing {path} raised {raised(problem)}") from problem


def _beside(path: str) -> set[str]:
    """Return the modules that the path could have meant: those of its package, or of this folder and the zoos."""
    parent, dot, _ = path.rpartition(".")
    places = getattr(sys.modules[parent], "__path__", ()) if parent else [str(Path.cwd())]
    return {f"{parent}{dot}{module.name}" for module in iter_modules(places)} | (
        set() if parent else set(ZOOS) - {"hub"}
    )


def like(name: str, known: Iterable[str]) -> str:
    """Return the nearest of many names, or nothing: a zoo is too large to be listed in a sentence."""
    close = get_close_matches(name, list(known), cutoff=0.5)
    return nearest(name, close) if close else ""


def raised(problem: BaseException) -> str:
    """Return in one short line what other people's code raised."""
    return shorten(f"{type(problem).__name__}: {problem}", 200, placeholder=" ...").removesuffix(":")


def thing(found: object) -> str:
    """Return the words for an object that is not what was expected: ``None``, ``the class Net``, ``a dict``."""
    if found is None:
        return "None"
    return f"the class {found.__name__}" if isinstance(found, type) else f"an object of type {type(found).__name__}"
