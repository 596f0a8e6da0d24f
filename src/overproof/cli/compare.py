"""The words of `overproof compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid

from overproof.cli.console import out_console, say

if TYPE_CHECKING:
    from overproof.report.table import Table


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path | None, typer.Option(help="Write the comparison as one offline page.")] = None,
) -> None:
    """Put evaluated runs into one table per data set and threat model.

    Example: overproof compare runs/mnist-* --out report.html
    """
    from overproof.verbs.compare import compare as verb

    _print_tables(verb(runs, out=out))
    if out:
        say(f"report: {out}")


def _print_tables(found: "Sequence[Table]") -> None:
    for table in found:
        grid = Grid(title=f"{table.title}; % with 95 % interval", title_justify="left")
        grid.add_column("run", overflow="fold")
        grid.add_column("method")
        grid.add_column("parameters", justify="right")
        for column in table.columns:
            grid.add_column(column, justify="right")
        for row in table.rows:
            cells = [str(row.cells[column]) if column in row.cells else "not run" for column in table.columns]
            grid.add_row(row.name, row.method, f"{row.parameters:,}", *cells)
        out_console.print(grid)
