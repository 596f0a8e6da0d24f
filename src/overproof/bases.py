"""``base:`` of a recipe: another recipe that it is a difference from. The whole recipe is the one laid over the other.

A recipe may be a stranger's: what it names as its base is read where it lies in the recipe's own folder or below it, or
came with the package, and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from overproof.errors import InputError
from overproof.plain_yaml import Plain, overlay, parse_yaml, read_yaml
from overproof.reading import is_file
from overproof.shipped import nearest_recipes, recipe_folder, shipped_recipe
from overproof.wording import one_line

KEY = "base"
_DEEPEST = 10  # bases above one recipe
_WORD = 200  # characters of a base's name that an error repeats


@dataclass(frozen=True)
class Whole:
    """A recipe's plain values with those of its bases under them, and ``where`` they are from, for errors."""

    tree: Plain
    where: str


def read_whole(file: Path) -> Whole:
    """Read a recipe file and its bases; raise ``InputError``, in which both files are named."""
    return complete(read_yaml(file), str(file), file)


def parse_whole(text: str, where: str) -> Whole:
    """Read a recipe's text, whose base can only be a shipped recipe; raise ``InputError`` as ``read_whole`` does."""
    return complete(parse_yaml(text, where=where), where)


def complete(tree: Plain, where: str, file: Path | None = None) -> Whole:
    """Return a recipe's plain values laid over those of its base, and these over those of the base's own.

    Mappings are merged key by key, unless they have different kinds: then, as with lists and single values, what is
    above replaces what is below. ``file`` is where the values were read; None: nowhere, so no file is beside them.
    Raises ``InputError`` for a base that is not there, lies elsewhere, cannot be read or is a base of itself.
    """
    trees, files, words = [tree], [] if file is None else [file], list[str]()
    last = where
    while isinstance(tree, dict) and KEY in tree:
        word = _word(tree[KEY], last)
        below = _find(word, files, last)
        shown = one_line(word, _WORD)
        if any(below.resolve() == other.resolve() for other in files):
            raise InputError(f"{last}: its base {shown} is in turn based on {last}, a circle")
        if len(words) == _DEEPEST:
            raise InputError(f"{last}: its base {shown} is one too many: a recipe has at most {_DEEPEST}")
        try:
            tree = read_yaml(below)
        except InputError as problem:
            raise InputError(f"{last}: its base {shown} cannot be used: {problem}") from problem
        if not isinstance(tree, dict):
            kind = "empty" if tree is None else f"of the type {type(tree).__name__}"
            raise InputError(f"{last}: its base {shown} is no mapping of keys to values: {below} is {kind}")
        trees, files, words, last = [*trees, tree], [*files, below], [*words, shown], str(below)
    if not words:
        return Whole(tree, where)
    merged = reduce(overlay, [_without_base(one) for one in reversed(trees)])
    return Whole(merged, f"{where} (with {'base' if len(words) == 1 else 'bases'} {', '.join(words)})")


def _word(value: Plain, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: base: expected the name of a recipe file beside this one or of a shipped recipe, got "
            f"{one_line(repr(value), _WORD)}"
        )
    return value


def _find(word: str, files: Sequence[Path], where: str) -> Path:
    """Return the file that a base's name means, seen from the last of ``files``; raise ``InputError``."""
    shown = one_line(word, _WORD)
    if files:
        folder, beside = files[0].parent, files[-1].parent / word
        # Whether a file is there is only asked once it is known to be one that may be read.
        if not any(_is_inside(beside, allowed) for allowed in (folder, recipe_folder())):
            raise InputError(
                f"{where}: its base {shown} lies outside of {folder.absolute()}; a base is a recipe in the folder of "
                "its own recipe, or a shipped one"
            )
        if is_file(beside):
            return beside
    if (shipped := _find_shipped(word)) is not None:
        return shipped
    near = nearest_recipes(word)
    hint = f" (the nearest shipped one: {near[0]})" if near else ""
    raise InputError(f"{where}: its base {shown} is neither a recipe file beside it nor a shipped recipe{hint}")


def _is_inside(file: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, links resolved; what has no place in a file system does not."""
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a name too long, links in a circle, a character that no name has
        return False


def _find_shipped(word: str) -> Path | None:
    try:
        return shipped_recipe(word)
    except (OSError, RuntimeError, ValueError):
        return None


def _without_base(tree: Plain) -> Plain:
    return {key: value for key, value in tree.items() if key != KEY}
