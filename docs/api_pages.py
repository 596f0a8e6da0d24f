"""The pages of ``docs/api``: every public name of every package, described by its docstring when the site is built."""

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import overproof

_INTRODUCTION = """# Python

Every public name, made from the docstrings. A name is imported when it is first used, so importing a package costs
nothing; `InputError` (a `ValueError`) says in one sentence what about an input is wrong.

| package | what it is for |
|---|---|
{rows}

[Coming from another library](../coming-from.md) shows the same work in other libraries' words.
"""


def packages() -> list[str]:
    """Return the packages with public names, ``overproof`` first."""
    found = (f"overproof.{each.name}" for each in iter_modules(overproof.__path__) if each.ispkg)
    return ["overproof", *sorted(name for name in found if getattr(import_module(name), "_HOMES", None))]


def api_pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    rows = "\n".join(f"| [`{name}`]({_file(name)}) | {_summary(import_module(name))} |" for name in packages())
    return {"index.md": _INTRODUCTION.format(rows=rows), **{_file(name): _page(name) for name in packages()}}


def _page(package: str) -> str:
    module = import_module(package)
    described = "\n".join(_entry(name, module._HOMES[name]) for name in sorted(module.__all__, key=str.lower))
    return (
        f"# {package}\n\n{inspect.cleandoc(module.__doc__ or '')}\n\nNames: `from {package} import ...`\n\n{described}"
    )


def _entry(name: str, home: str) -> str:
    return f"::: {home}.{name}\n"


def _file(package: str) -> str:
    return f"{package.rpartition('.')[2]}.md"


def _summary(module: Any) -> str:
    return inspect.cleandoc(module.__doc__ or "").splitlines()[0]
