"""Which code may be run: what the user typed; what a file names only where it lies beside that file, or was allowed.

A word of the command line or of Python is the user's own. A word in a recipe, a sweep or a suite may be a stranger's:
it may name ``package.module:factory`` only where the module lies in the folder of that file or in the current folder,
is an entry point of an installed package (groups ``overproof.*``), or where the user said ``--trust-code``; never a
module of Python's standard library. Everything here is decided by looking: nothing is imported.
"""

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from overproof.errors import InputError, nearest
from overproof.reading import parsing, read_text

ZOOS = ("hub", "robustbench", "timm", "torchvision")
"""What may stand before a colon and is no module."""

_SOURCE = 1 << 24  # bytes of a module's text


class EntryPoint(NamedTuple):
    """An entry point of an installed package: its ``group`` and ``name``, and the ``word`` (``module:name``) meant."""

    group: str
    name: str
    word: str
    package: str


@dataclass(frozen=True, kw_only=True)
class Code:
    """Which code the words of a tree of values may run, and where its modules are looked for.

    The tree was read from a file ``where``; ``folders`` are those in which code that it names may lie, besides the
    current one. ``own`` says that all words are the user's. ``edits`` are the paths that were set afterwards, in order,
    each with whether the user typed it. Without ``load`` the tree is read for its values, and what it names need not be
    there; without ``imports`` none of it is run.
    """

    where: str = "recipe"
    folders: tuple[Path, ...] = ()
    own: bool = False
    trust_code: bool = False
    edits: tuple[tuple[str, bool], ...] = ()
    load: bool = True
    imports: bool = True

    def check(self, word: str, *places: str) -> None:
        """Raise ``InputError`` unless the code that a word names may be run; the first of its ``places`` is named.

        A place is ``where`` and, after dots, the keys; an edit of any of the places has set the word.
        """
        if not self.typed(*places):
            folders = (*self.folders, Path.cwd())
            check_named_code(word, folders=folders, where=places[0], trust_code=self.trust_code)

    def typed(self, *places: str) -> bool:
        """Whether the user typed the word in these places: the last edit of one of them, or of a key above, decides."""
        paths = [f"{place.removeprefix(f'{self.where}.')}." for place in places]
        code = self.own
        for edit, typed in self.edits:
            if any(path.startswith(f"{edit}.") for path in paths):
                code = typed
        return code


def module_word(word: str) -> tuple[str, str] | None:
    """Return module and attribute of ``package.module:factory``; None for other words.

    A pin (``#...``) and options (``?key=value``) behind it are left out.
    """
    module, colon, attribute = word.partition("#")[0].partition("?")[0].partition(":")
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
            if (other := _find_installed(top)) and not any(other.is_relative_to(each.resolve()) for each in folders):
                raise InputError(f"{where}: {word}: an installed package is called {top!r} as well; rename the module")
            _check_defined(source, attribute, where=f"{where}: {word}")
            return
    raise InputError(
        f"{where}: {word}: a file may only name code that lies beside it or in the current folder (there is no "
        f"{module!r} in {list_folders(folders)}); where you trust it, add --trust-code"
    )


def list_folders(folders: Sequence[Path]) -> str:
    """Return folders as a sentence names them, each once."""
    return ", ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))


def entry_points(group: str = "") -> tuple[EntryPoint, ...]:
    """Return the entry points of installed packages in a group ``overproof.*``, or in all of these; in order of name.

    Nothing is imported.
    """
    return tuple(point for point in _all_points(tuple(sys.path)) if group in ("", point.group))


@cache
def _all_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points that packages on the path have for us; of two installations the first one counts."""
    seen, points = set[str](), list[EntryPoint]()
    for package in distributions(path=list(path)):
        if "overproof" not in (package.read_text("entry_points.txt") or ""):
            continue  # parsing is what takes the time, and hundreds of packages may be installed
        name = str(package.metadata["Name"])
        if name in seen:
            continue
        seen.add(name)
        for point in package.entry_points:
            if point.group.split(".")[0] == "overproof":
                points.append(EntryPoint(point.group, point.name, point.value.split("[")[0].strip(), name))
    return tuple(sorted(points))


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


def _find_installed(top: str) -> Path | None:
    """Return where Python would find a module of this name without looking into further folders, or None."""
    spec = PathFinder.find_spec(top)
    if spec is None:
        return None
    places = [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or ())]
    return Path(places[0]).resolve() if places else None


def _is_entry_point(module: str, attribute: str) -> bool:
    return any(point.word == f"{module}:{attribute}" for point in entry_points())


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
