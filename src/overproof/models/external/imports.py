"""Importing what a word names, ``package.module:name?key=value``, and what a factory is called with.

There is one sentence for every way in which that fails.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from textwrap import shorten
from types import ModuleType
from typing import Any

from overproof.errors import InputError, nearest
from overproof.plain_yaml import parse_yaml
from overproof.signature import Signature
from overproof.trust import ZOOS
from overproof.wording import one_line


class _Place(str):
    """A folder that was put on the search path here, so that a sentence can say where a module was looked for."""


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Look for modules in the folders first, as ``python -m`` does; the search path is given back."""
    places = [_Place(folder.absolute()) for folder in folders]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)


def import_named(word: str) -> Any:
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


def read_options(query: str, *, where: str) -> dict[str, Any]:
    """Return what ``key=value&key=value`` says, values as YAML reads them: numbers, true and false, texts.

    Raises ``InputError`` for other text, and for a key that is given twice.
    """
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, sign, value = part.partition("=")
        if not sign or not name.isidentifier():
            raise InputError(f"{where}: options are written ?name=value&name=value")
        if name in options:
            raise InputError(f"{where}: {name} is given twice")
        options[name] = parse_yaml(value, where=where)
    return options


def arguments(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    signature: Signature | None,
    *,
    word: str,
    advice: str,
    needed_only: bool,
) -> dict[str, Any]:
    """Return the keyword arguments of a factory: ``options``, and what the images say where it has parameters for that.

    Those are ``num_classes``, ``in_channels`` (``in_chans``) and ``image_size`` (``img_size``); with ``needed_only``
    they are given only to parameters without a default. Raises ``InputError`` for options that it does not take, and
    for other parameters that need a value; that sentence ends with the ``advice``.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # some compiled callables do not say
        return dict(options)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {each.name for each in parameters if each.kind not in kinds}
    by_name = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if extra := sorted(set(options) - by_name) if not anything else []:
        hint = like(extra[0], by_name) if by_name else " and no others"
        raise InputError(f"{word}: it takes no {extra[0]!r}{hint}")
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in kinds]
    known = {} if signature is None else _describe_images(signature)
    given = {name: value for name, value in known.items() if name in (set(needed) if needed_only else named)}
    given = {name: value for name, value in given.items() if name in by_name} | dict(options)
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{word}: it needs arguments ({', '.join(missing)}); {advice}")
    return given


def _describe_images(signature: Signature) -> dict[str, Any]:
    size = signature.height if signature.height == signature.width else (signature.height, signature.width)
    return {
        "num_classes": signature.classes,
        "in_channels": signature.channels,
        "in_chans": signature.channels,
        "image_size": size,
        "img_size": size,
    }


def _module(path: str, word: str) -> ModuleType:
    try:
        return import_module(path)
    except (Exception, SystemExit) as problem:  # a script without a guard may exit
        missing = problem.name or "" if isinstance(problem, ModuleNotFoundError) else ""
        # Either a part of the path is missing, or something that the module itself wants to import.
        if missing and f"{path}.".startswith(f"{missing}."):
            hint = like(missing, _beside(missing))
            places = dict.fromkeys(str(place) for place in sys.path if isinstance(place, _Place))
            searched = " or in ".join(one_line(place, 300) for place in places)
            raise InputError(f"{word}: no module {missing!r} in {searched}, or installed{hint}") from problem
        raise InputError(f"{word}: importing {path} raised {describe_exception(problem)}") from problem


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


def describe_exception(problem: BaseException) -> str:
    """Return in one short line what other people's code raised."""
    return shorten(f"{type(problem).__name__}: {problem}", 200, placeholder=" ...").removesuffix(":")


def thing(value: object) -> str:
    """Return the words for an object that is not what was expected: ``None``, ``the class Net``, ``a dict``."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
