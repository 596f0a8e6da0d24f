"""The verbs, put together: reads words, calls them; bad input is one line and exit status 2."""

import platform
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

import overproof
from overproof.cli.certify import certify
from overproof.cli.compare import compare
from overproof.cli.console import leads, warn
from overproof.cli.evaluate import evaluate
from overproof.cli.export import export
from overproof.cli.inventory import list_
from overproof.cli.quickstart import quickstart
from overproof.cli.teacher import teacher
from overproof.cli.train import train
from overproof.errors import AgreedError, InputError

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)


def _tell_versions(wanted: bool) -> None:
    if wanted:
        print(f"overproof {overproof.__version__}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _overproof(
    versions: Annotated[
        bool, typer.Option("--version", callback=_tell_versions, is_eager=True, help="Print the versions, and stop.")
    ] = False,
) -> None:
    """Distil small robust image classifiers, attack them, prove what can be proved, and ship them."""


for verb in (quickstart, train, evaluate, certify, compare, export):
    app.command()(verb)
app.command(name="list")(list_)
app.add_typer(teacher, name="teacher")


def main() -> NoReturn:
    """Run the command line; bad input is one line and exit status 2."""
    try:
        app()
    except InputError as problem:
        if not isinstance(problem, AgreedError) or leads():
            warn(f"overproof: {problem}")
        sys.exit(2)
    sys.exit(0)
