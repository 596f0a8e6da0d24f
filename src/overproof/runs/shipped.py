"""The recipes that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from overproof.errors import InputError
from overproof.reading import is_file
from overproof.wording import one_line


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes: inside an installed package, beside ``src`` in a checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, such as ``mnist/ard``."""
    folder = recipe_folder()
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.glob("**/*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file a user means: a path that exists, or a shipped recipe by its name; raise ``InputError``."""
    if is_file(Path(name)):
        return Path(name)
    shipped = recipe_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if is_file(shipped) and shipped.resolve().is_relative_to(recipe_folder().resolve()):
        return shipped
    near = get_close_matches(name[:200], recipe_names(), n=3, cutoff=0.4)
    hint = f" (the nearest: {', '.join(near)})" if near else "; see: overproof list recipes"
    raise InputError(f"no recipe file {one_line(name, 200)!r}, and no shipped recipe of this name{hint}")
