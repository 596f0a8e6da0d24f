"""Which code may be run: what the user typed; what a file names only where it lies beside that file, or was allowed.

A word of the command line or of Python is the user's own. A word in a recipe, a sweep or a suite may be a stranger's:
it may name ``package.module:factory`` only where the module lies in the folder of that file or in the current folder,
is an entry point of an installed package (groups ``overproof.*``), or where the user said ``--trust-code``; never a
module of Python's standard library. Everything here is decided by looking: nothing is imported.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path

from overproof.errors import InputError, nearest
from overproof.reading import parsing, read_text

ZOOS = ("hub", "robustbench", "timm", "torchvision")
"""What may stand before a colon and is no module."""

_SOURCE = 1 << 24  # bytes of a module's text


def module_word(word: str) -> tuple[str, str] | None:
    """Return module and attribute of ``package.module:factory``, ``#...`` behind it or not; None for other words."""
    module, colon, attribute = word.partition("#")[0].partition(":")
    if not colon or module in ZOOS or "/" in module or "\\" in module:
        return None
    return module, attribute


def check_named_code(word: str, *, folders: Sequence[Path], where: str, trust_code: bool = False) -> None:
    """Raise ``InputError`` unless the code that a word *of a file* names may be run; nothing is imported.

    ``folders`` are those where it may lie: the file's own and the current one. ``where`` names the word's place.
    """
    named = module_word(word)
    if named is None:
        return
    module, attribute = named
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        raise InputError(f"{where}: {word}: a file may not name code of Python's standard library")
    if trust_code or _is_entry_point(module, attribute):
        return
    for folder in folders:
        source = source_of(module, folder)
        if source is not None:
            if (other := _installed(top)) and not any(other.is_relative_to(each.resolve()) for each in folders):
                raise InputError(f"{where}: {word}: an installed package is called {top!r} as well; rename the module")
            _check_defined(source, attribute, where=f"{where}: {word}")
            return
    raise InputError(
        f"{where}: {word}: a file may only name code that lies beside it or in the current folder; where you trust it, "
        f"add --trust-code"
    )


def source_of(module: str, folder: Path) -> Path | None:
    """Return the file that ``package.module`` is in a folder, links resolved; None where none lies inside it."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    home = folder.resolve()
    stem = home.joinpath(*parts)
    for file in (stem / "__init__.py", stem.with_suffix(".py")):
        # A link may lead out of the folder, to any code of the machine.
        if file.is_file() and file.resolve().is_relative_to(home):
            return file.resolve()
    return None


def _installed(top: str) -> Path | None:
    """Return where Python would find a module of this name without looking into further folders, or None."""
    spec = PathFinder.find_spec(top)
    if spec is None:
        return None
    places = [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or ())]
    return Path(places[0]).resolve() if places else None


def _is_entry_point(module: str, attribute: str) -> bool:
    return any(
        point.value.split("[")[0].strip() == f"{module}:{attribute}"
        for package in distributions()
        for point in package.entry_points
        if point.group.split(".")[0] == "overproof"
    )


def _check_defined(source: Path, attribute: str, *, where: str) -> None:
    """Raise ``InputError`` where a module's text gives no such name: then its code is not run to find that out."""
    text = read_text(source, limit=_SOURCE)
    with parsing(source, "Python"):
        names, any_name = _names(ast.parse(text))
    if attribute not in names and not any_name:
        raise InputError(f"{where}: {source.name} has no {attribute!r}{nearest(attribute, names) if names else ''}")


def _names(tree: ast.Module) -> tuple[set[str], bool]:
    """Return the names that a module's text gives, and whether it may give others (by a star or ``__getattr__``)."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what stands inside is not the module's
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting.extend(ast.iter_child_nodes(node))
    return names, "*" in names or "__getattr__" in names
