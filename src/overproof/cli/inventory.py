"""The words of `overproof list`."""

from typing import Annotated

import typer

from overproof.cli.completion import LISTS, lists
from overproof.cli.console import out_console


def list_(what: Annotated[str, typer.Argument(metavar="|".join(LISTS), autocompletion=lists)]) -> None:
    """List what there is to choose from.

    Example: overproof list methods
    """
    from overproof.commands.inventory import inventory

    for name, line in inventory(what):
        out_console.print(f"{name:<18} {line}" if line else name, soft_wrap=True)
