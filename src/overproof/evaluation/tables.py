"""Small tables of results: aligned text for a terminal, and the same as HTML for a notebook."""

from collections.abc import Sequence
from html import escape

Cells = Sequence[Sequence[str]]
"""The first row is the head; the first column is aligned to the left, the others to the right."""


def text_table(rows: Cells, caption: str = "") -> str:
    """Return the rows in columns, under the caption and a rule."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*([caption] if caption else []), lines[0], rule, *lines[1:]])


def html_table(rows: Cells, caption: str = "") -> str:
    """Return the rows as an HTML table without scripts or styles of its own sheet; every cell is escaped."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row" style="text-align:left">{escape(cell)}</th>'
            if column == 0
            else f'<td style="text-align:right">{escape(cell)}</td>'
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows[1:]
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
