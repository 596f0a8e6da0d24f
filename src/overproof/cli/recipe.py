"""The words of `overproof recipe`."""

from pathlib import Path
from typing import Annotated

import typer

from overproof.cli.completion import recipes
from overproof.cli.console import say

recipe = typer.Typer(no_args_is_help=True, help="Read a recipe, or take a copy of a shipped one.")

_Name = Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.", autocompletion=recipes)]


@recipe.command()
def show(
    name: _Name,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Edit the recipe: PATH=VALUE, e.g. training.epochs=5.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every key, those left to their defaults too.")] = False,
) -> None:
    """Print a recipe with what it has of its base; with --full or --set as it is run, defaults included.

    Example: overproof recipe show mnist/ard --set training.epochs=5
    """
    from overproof.recipe import dump, read, whole_text
    from overproof.shipped import find_recipe

    file = find_recipe(name)
    say((dump(read(file, sets or [])) if full or sets else whole_text(file)).rstrip("\n"))


@recipe.command()
def copy(
    name: _Name,
    file: Annotated[Path | None, typer.Argument(help="Where to; default the recipe's last word, here.")] = None,
) -> None:
    """Copy a recipe, with what it has of its base, to a file of your own, which is not overwritten.

    Example: overproof recipe copy mnist/ard my-ard.yaml
    """
    from overproof.errors import InputError
    from overproof.files import make_folder, write_atomically
    from overproof.recipe import whole_text
    from overproof.shipped import find_recipe

    source = find_recipe(name)
    place = Path(source.name) if file is None else file / source.name if file.is_dir() else file
    if place.exists():
        raise InputError(f"{place}: it is already there; name another file")
    make_folder(place.parent)
    write_atomically(place, whole_text(source).encode())
    say(f"{place}: train it with: overproof train {place}")
