"""The words of `overproof compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.console import out_console, say
from overproof.cli.options import ClassesByPosition, TrustCode

if TYPE_CHECKING:
    from overproof.report.columns import Column
    from overproof.report.table import Table

_LINE = 100  # characters of a line where nobody says
_NAME, _METHOD = 32, 14  # at most of a run's name and its method; what is longer goes on in the next line


def compare(
    runs: Annotated[list[str], typer.Argument(help="Evaluated runs, or other networks that were evaluated here.")],
    out: Annotated[Path | None, typer.Option(help="Write the comparison as one offline page.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the tables as comma-separated values.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables as LaTeX (booktabs).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Print all columns, in several parts.")] = False,
    classes_by_position: ClassesByPosition = False,
    trust_code: TrustCode = False,
) -> None:
    """Put evaluated runs into one table per data set and threat model; seeds of one recipe are one row.

    Example: overproof compare runs/mnist-* --out report.html --markdown table.md
    """
    from overproof.commands.compare import compare as compare_runs
    from overproof.report.text import CAPTION

    result = compare_runs(
        runs,
        out=out,
        csv=csv,
        latex=latex,
        markdown=markdown,
        classes_by_position=classes_by_position,
        trust_code=trust_code,
    )
    for table in result:
        print_table(table, wide=wide)
    say(CAPTION)
    for name, file in (("report", out), ("csv", csv), ("latex", latex), ("markdown", markdown)):
        if file:
            say(f"{name}: {file}")


def print_table(table: "Table", *, wide: bool = False) -> None:
    """Print one table of what fits into the line, most important first, and below it what must be known of its rows.

    Off a terminal a line has 100 characters. With ``wide`` all columns are printed, in parts that each name the runs
    again.
    """
    notes = list(dict.fromkeys(mark for row in table.rows for mark in row.marks))
    names = [_name(row.name, len(row.members), [notes.index(mark) + 1 for mark in row.marks]) for row in table.rows]
    taken = min(_NAME, max(map(len, (*names, "run")))) + min(_METHOD, max(len(row.method) for row in table.rows) + 6)
    width = out_console.width if out_console.is_terminal or wide else _LINE
    parts = _parts(table, width - taken - 10) if wide else [_fitting(table, width - taken - 10)]
    for number, columns in enumerate(parts):
        grid = Grid(title=Text(table.title) if number == 0 else None, title_justify="left")
        grid.add_column("run", overflow="fold", max_width=_NAME)
        grid.add_column("method", overflow="fold", max_width=_METHOD)
        for column in columns:
            grid.add_column(Text(column.label), justify="right", no_wrap=len(columns) > 1)
        for place, name in enumerate(names):
            grid.add_row(
                Text(name), Text(table.rows[place].method), *(_cell(table, place, column) for column in columns)
            )
        out_console.print(grid, width=width, soft_wrap=False)
    for number, note in enumerate(notes, start=1):
        say(f"[{number}] {note}")
    left = [column.label for column in table.columns if not any(column in part for part in parts)]
    if left:
        say(f"not shown here: {', '.join(left)}; --wide prints all, --out, --csv and --markdown hold all")
    for row in table.rows:
        for other in row.others:
            say(f"also kept of {row.name}: {other}")


def _name(name: str, seeds: int, notes: Sequence[int]) -> str:
    return "".join([name, f" ({seeds} seeds)" if seeds else "", *(f" [{number}]" for number in notes)])


def _fitting(table: "Table", space: int) -> list["Column"]:
    """Return the columns that fit into so many characters, the first of them in any case, in the table's order."""
    chosen: list[Column] = []
    for column in sorted(table.columns, key=_importance):
        width = _width(table, column)
        if width <= space or not chosen:
            chosen.append(column)
            space -= width
    return [column for column in table.columns if column in chosen]


def _importance(column: "Column") -> int:
    groups = ("proof", "balanced", "cost", "attacks", "confidence", "accuracy")
    return -2 if column.key == "clean" else -1 if column.key == "worst" else groups.index(column.group)


def _parts(table: "Table", space: int) -> list[list["Column"]]:
    """Return the columns in parts that fit into so many characters, at least one column each."""
    parts: list[list[Column]] = [[]]
    left = space
    for column in table.columns:
        width = _width(table, column)
        if parts[-1] and width > left:
            parts.append([])
            left = space
        parts[-1].append(column)
        left -= width
    return parts


def _width(table: "Table", column: "Column") -> int:
    return 3 + max(len(column.label), *(len(_cell(table, place, column)) for place in range(len(table.rows))))


def _cell(table: "Table", place: int, column: "Column") -> Text:
    from overproof.report.text import format_cell

    return Text(format_cell(table.rows[place], column), style="bold" if table.best.get(column.key) == place else "")
