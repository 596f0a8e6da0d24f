"""Public names of a package that are imported when they are first used (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__`` for names that are at home in the modules given.

    A package that imported all of its names at once would cost every user what the dearest of them costs.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - what it becomes in the package
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(import_module(package)), *homes})

    return __getattr__, __dir__
