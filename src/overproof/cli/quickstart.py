"""The words of `overproof quickstart`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid

from overproof.cli.console import out_console, say, stoppable

if TYPE_CHECKING:
    from overproof.commands.quickstart import Outcome


def quickstart(
    out: Annotated[Path, typer.Option(help="Where the runs and report.html go.")] = Path("runs/quickstart"),
) -> None:
    """Train robust teachers and small students on embedded digits, attack, prove and compare: some minutes.

    Example: overproof quickstart --out runs/first
    """
    from overproof.commands.quickstart import quickstart_steps

    with stoppable("finished runs are kept, and the same command continues"):
        for step in quickstart_steps(out):
            if isinstance(step, str):
                say(step)
            else:
                _print_outcome(step)


def _print_outcome(outcome: "Outcome") -> None:
    grid = Grid(title="digits, 360 test images; worst case of FGSM and PGD-20 with 3 restarts", title_justify="left")
    for name in ("network", "parameters", "clean, %", "robust, %"):
        grid.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for line in outcome.lines:
        grid.add_row(line.name, f"{line.parameters:,}", str(line.clean), str(line.robust))
    out_console.print(grid)
    say(f"{outcome.verdict}\n{outcome.proof}")
    say(f"report: {outcome.report}")
