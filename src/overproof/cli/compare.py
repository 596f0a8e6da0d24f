"""The words of `overproof compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.console import out_console, say

if TYPE_CHECKING:
    from overproof.report.columns import Column
    from overproof.report.table import Table


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path | None, typer.Option(help="Write the comparison as one offline page.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the tables as comma-separated values.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables as LaTeX (booktabs).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
) -> None:
    """Put evaluated runs into one table per data set and threat model; seeds of one recipe are one row.

    Example: overproof compare runs/mnist-* --out report.html --markdown table.md
    """
    from overproof.report.text import CAPTION
    from overproof.verbs.compare import compare as verb

    found = verb(runs, out=out, csv=csv, latex=latex, markdown=markdown)
    for table in found:
        print_table(table)
    say(CAPTION)
    for name, file in (("report", out), ("csv", csv), ("latex", latex), ("markdown", markdown)):
        if file:
            say(f"{name}: {file}")


def print_table(table: "Table") -> None:
    """Print a table, and below it what must be known of its rows.

    Where it is wider than the terminal it is printed in parts that each name the runs again.
    """
    notes = list(dict.fromkeys(mark for row in table.rows for mark in row.marks))
    names = [_name(row.name, len(row.members), [notes.index(mark) + 1 for mark in row.marks]) for row in table.rows]
    methods = ["method", *(row.method for row in table.rows)]
    parts = _parts(table, out_console.width - 10 - max(map(len, (*names, "run"))) - max(map(len, methods)))
    for number, columns in enumerate(parts):
        grid = Grid(title=Text(table.title) if number == 0 else None, title_justify="left")
        grid.add_column("run", overflow="fold")
        grid.add_column("method", overflow="fold")
        for column in columns:
            grid.add_column(Text(column.label), justify="right", no_wrap=True)
        for place, name in enumerate(names):
            grid.add_row(
                Text(name), Text(table.rows[place].method), *(_cell(table, place, column) for column in columns)
            )
        out_console.print(grid)
    for number, note in enumerate(notes, start=1):
        say(f"[{number}] {note}")


def _name(name: str, seeds: int, notes: Sequence[int]) -> str:
    return "".join([name, f" ({seeds} seeds)" if seeds else "", *(f" [{number}]" for number in notes)])


def _parts(table: "Table", room: int) -> list[list["Column"]]:
    """Return the columns in parts that fit into so many characters, at least one column each."""
    parts: list[list[Column]] = [[]]
    left = room
    for column in table.columns:
        width = 3 + max(len(column.label), *(len(_cell(table, place, column)) for place in range(len(table.rows))))
        if parts[-1] and width > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= width
    return parts


def _cell(table: "Table", place: int, column: "Column") -> Text:
    from overproof.report.text import shown

    return Text(shown(table.rows[place], column), style="bold" if table.best.get(column.key) == place else "")
