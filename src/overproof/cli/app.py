"""The commands, put together: reads words, calls them; bad input is one line and exit status 2."""

import os
import platform
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from overproof.cli.certify import certify
from overproof.cli.clean import clean
from overproof.cli.compare import compare
from overproof.cli.console import leads, lost_output, say, warn
from overproof.cli.evaluate import evaluate
from overproof.cli.export import export
from overproof.cli.inventory import list_
from overproof.cli.quickstart import quickstart
from overproof.cli.recipe import recipe
from overproof.cli.teacher import teacher
from overproof.cli.train import train
from overproof.errors import AgreedError, InputError
from overproof.version import __version__
from overproof.wording import one_line

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)


def _tell_versions(wanted: bool) -> None:
    if wanted:
        say(f"overproof {__version__}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _overproof(
    versions: Annotated[
        bool, typer.Option("--version", callback=_tell_versions, is_eager=True, help="Print the versions, and stop.")
    ] = False,
) -> None:
    """Distil small robust image classifiers, attack them, prove what can be proved, and ship them."""


for command in (quickstart, train, evaluate, certify, compare, export, clean):
    app.command()(command)
app.command(name="list")(list_)
app.add_typer(recipe, name="recipe")
app.add_typer(teacher, name="teacher")


def main() -> NoReturn:
    """Run the command line; bad input, and what the system refuses, is one line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # closed ones are None
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone, a name that is no UTF-8
    status = 0
    try:
        app()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except InputError as problem:
        if not isinstance(problem, AgreedError) or leads():
            warn(f"overproof: {problem}")
        status = 2
    except OSError as problem:
        place = "" if problem.filename is None else f"{os.fsdecode(problem.filename)}: "
        warn(one_line(f"overproof: {place}{problem.strerror or problem}"))
        status = 2
    except (MemoryError, RuntimeError) as problem:
        if not _ran_out(problem):
            raise
        warn("overproof: this needs more memory than there is; take a smaller network, batch or --examples")
        status = 2
    if (reason := lost_output()) and not status:
        warn(f"overproof: standard output cannot be written ({reason}); files were written as usual")
        status = 2
    sys.exit(status)


def _ran_out(problem: Exception) -> bool:
    from overproof.memory import ran_out

    return ran_out(problem)
