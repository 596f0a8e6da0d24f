"""Finding methods: every module of this package that defines a method is one; nothing is registered by hand."""

import importlib
import pkgutil
from functools import cache
from inspect import isabstract

from overproof.methods.method import Method


@cache
def methods() -> dict[str, type[Method]]:
    """Return every method class by its ``kind``, in alphabetical order."""
    package = __name__.rpartition(".")[0]
    classes: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        members = vars(importlib.import_module(f"{package}.{module.name}")).values()
        for member in members:
            if isinstance(member, type) and issubclass(member, Method) and not isabstract(member):
                classes[member.kind] = member
    return dict(sorted(classes.items()))
