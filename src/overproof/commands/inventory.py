"""``list``: the names there are to choose from, each with one line."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from overproof.attacks.suites import ATTACKS, OWN_THREATS, SUITES
from overproof.building import AUGMENTATIONS, DATA, METHODS, SOURCES
from overproof.errors import InputError, nearest
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.models.architectures.catalogue import FAMILIES, NAMED
from overproof.models.external.imports import describe_exception
from overproof.registry import Registry
from overproof.shipped import recipe_names
from overproof.training.cost import passes
from overproof.trust import entry_points

Lines = Iterable[tuple[str, str]]


def inventory(what: str) -> list[tuple[str, str]]:
    """Return name and description of what there is of one sort: ``methods``, ``attacks``, ``models``, ``datasets``, ...

    What installed packages bring comes after ours; of what cannot be used the line says why.
    """
    if what not in _LISTS:
        raise InputError(f"there is no list of {what!r}{nearest(what, _LISTS)}")
    return list(_LISTS[what]())


def _classes(kinds: Mapping[str, type]) -> Lines:
    return ((kind, _first_sentence(cls)) for kind, cls in kinds.items())


def _methods() -> Lines:
    yield from ((kind, _of_method(cls)) for kind, cls in methods().items())
    yield from _iter_installed(METHODS, _of_method)


def _of_method(cls: type[Method]) -> str:
    try:
        method = cls()
        costs = "; ".join(f"{name} {cost}" for name, cost in passes(method).items())
    except Exception as problem:  # other people's methods may need options, or larger images than the toy's
        return f"{_first_sentence(cls)} Its cost was not measured ({describe_exception(problem)})."
    return f"{_first_sentence(cls)} Teachers: {', '.join(method.roles) or 'none'}. Per batch: {costs}."


def _models() -> Lines:
    yield from _classes(FAMILIES)
    # A few names (mlp) are also a family's.
    yield from ((name, repr(architecture)) for name, architecture in NAMED.items() if name not in FAMILIES)
    for point in entry_points("overproof.models"):
        taken = " by this word alone: the name is one of overproof's own" if point.name in {*FAMILIES, *NAMED} else ""
        yield point.name, f"{point.word}, of the package {point.package}{taken}."


def _attacks() -> Lines:
    yield from _classes(ATTACKS.ours())
    yield from _iter_installed(ATTACKS, _first_sentence)
    for name, suite in SUITES.ours().items():
        own = f" {OWN_THREATS[name].norm} eps {OWN_THREATS[name].eps}." if name in OWN_THREATS else ""
        yield name, f"{_of_suite(suite)}{own}"
    yield from _iter_installed(SUITES, _of_suite)


def _of_suite(suite: object) -> str:
    return f"Suite: {_first_sentence(suite).removeprefix('Return ')}"


def _iter_installed(registry: Registry[Any], described: Callable[[Any], str]) -> Lines:
    """Yield what installed packages bring, and of which package it is."""
    packages = {point.name: point.package for point in entry_points(registry.group)}
    for name, item in registry.installed().items():
        if isinstance(item, str):
            yield name, f"Cannot be used: {item}"
        else:
            yield name, f"{described(item)} Of the package {packages[name]}."


def _first_sentence(described: object) -> str:
    return " ".join((described.__doc__ or "").split("\n\n")[0].split())


def _data() -> Lines:
    yield from _classes(SOURCES)
    yield from _iter_installed(DATA, _first_sentence)


def _augmentations() -> Lines:
    yield from _classes(AUGMENTATIONS.ours())
    yield from _iter_installed(AUGMENTATIONS, _first_sentence)


_LISTS: Mapping[str, Callable[[], Lines]] = {
    "methods": _methods,
    "attacks": _attacks,
    "models": _models,
    "datasets": _data,
    "augmentations": _augmentations,
    "recipes": lambda: ((name, "") for name in recipe_names()),
}
