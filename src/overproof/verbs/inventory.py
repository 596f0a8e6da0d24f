"""``list``: the names there are to choose from, each with one line."""

from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from overproof.errors import InputError, nearest
from overproof.evaluation.trial import OWN_THREATS, SUITES, Search
from overproof.methods.catalogue import methods
from overproof.models.catalogue import FAMILIES, NAMED
from overproof.recipe import SOURCES
from overproof.shipped import recipe_names
from overproof.training.cost import passes

Lines = Iterable[tuple[str, str]]


def inventory(what: str) -> list[tuple[str, str]]:
    """Return name and description of every ``methods``, ``attacks``, ``models``, ``datasets`` or ``recipes``."""
    if what not in _ROOMS:
        raise InputError(f"there is no list of {what!r}{nearest(what, _ROOMS)}")
    return list(_ROOMS[what]())


def _classes(kinds: Mapping[str, type]) -> Lines:
    return ((kind, _first_sentence(cls)) for kind, cls in kinds.items())


def _methods() -> Lines:
    for kind, cls in methods().items():
        method = cls()
        costs = "; ".join(f"{name} {cost}" for name, cost in passes(method).items())
        teachers = ", ".join(method.roles) or "none"
        yield kind, f"{_first_sentence(cls)} Teachers: {teachers}. Per batch: {costs}."


def _models() -> Lines:
    yield from _classes(FAMILIES)
    # A few names (mlp) are also a family's.
    yield from ((name, repr(architecture)) for name, architecture in NAMED.items() if name not in FAMILIES)


def _attacks() -> Lines:
    yield from _classes({search.kind: search for search in get_args(Search)})
    for name, suite in SUITES.items():
        own = f" {OWN_THREATS[name].norm} eps {OWN_THREATS[name].eps}." if name in OWN_THREATS else ""
        yield name, f"Suite: {_first_sentence(suite).removeprefix('Return ')}{own}"


def _first_sentence(described: object) -> str:
    return " ".join((described.__doc__ or "").split("\n\n")[0].split())


_ROOMS: Mapping[str, Callable[[], Lines]] = {
    "methods": _methods,
    "attacks": _attacks,
    "models": _models,
    "datasets": lambda: _classes(SOURCES),
    "recipes": lambda: ((name, "") for name in recipe_names()),
}
