"""The recipes that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from overproof.errors import InputError
from overproof.reading import is_file
from overproof.wording import one_line

_BASE = "base"  # the stem of a file that holds what the recipes of one data set share


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes: inside an installed package, beside ``src`` in a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, such as ``mnist/ard``; a base is not one, as it cannot be trained."""
    folder = recipe_folder()
    files = (file for file in folder.glob("**/*.yaml") if file.stem != _BASE)
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in files)


def shipped_recipe(name: str) -> Path | None:
    """Return the file of a shipped recipe, or of a base of some (``mnist/base``); None where none has this name."""
    folder = recipe_folder()
    file = folder / f"{name.removesuffix('.yaml')}.yaml"
    return file if is_file(file) and file.resolve().is_relative_to(folder.resolve()) else None


def nearest_recipes(name: str, count: int = 1) -> list[str]:
    """Return the names of the shipped recipes that are most like a misspelt one, at most ``count``."""
    return get_close_matches(name[:200], recipe_names(), n=count, cutoff=0.4)


def find_recipe(name: str) -> Path:
    """Return the file a user means: a path that exists, or a shipped recipe by its name; raise ``InputError``."""
    if is_file(Path(name)):
        return Path(name)
    if (shipped := shipped_recipe(name)) is not None:
        return shipped
    near = nearest_recipes(name, 3)
    hint = f" (the nearest: {', '.join(near)})" if near else "; see: overproof list recipes"
    raise InputError(f"no recipe file {one_line(name, 200)!r}, and no shipped recipe of this name{hint}")
