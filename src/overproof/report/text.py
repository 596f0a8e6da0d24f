"""Tables as text for other documents: comma-separated values, LaTeX, Markdown."""

import csv
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO

from overproof.report.columns import Column
from overproof.report.table import Row, Table
from overproof.wording import one_line, visible

Written = Callable[[str], str]

_MOST_CLASSES = 100  # of which a table of comma-separated values has columns
_OF_CLASS = {"images": "of", "correct clean": "clean", "correct in the worst case": "worst"}
_MARKDOWN = "\\|*_`[]~"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def as_csv(tables: Sequence[Table]) -> str:
    """Return one line per row, run by run below the means: shares in [0, 1] in full, intervals in columns of their own.

    A figure that was not run is empty. Counts per class follow, of up to 100 classes and of single runs. Every line
    says on what it stands, so tables may follow one another.
    """
    columns = {column.key: column for table in tables for column in table.columns}
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [head for column in columns.values() for head in _heads(column)]
    classes = list(dict.fromkeys(name for table in tables for row in table.rows for name in row.classes))
    classes = classes if len(classes) <= _MOST_CLASSES else []
    named = [f"{in_csv(name)}: {figure}" for name in classes for figure in _OF_CLASS]
    writer.writerow(["footing", "run", "method", "seeds", "marks", *heads, *named])
    for table in tables:
        for row in (line for whole in table.rows for line in (whole, *whole.members)):
            figures = [figure for column in columns.values() for figure in _figures(row, column)]
            words = map(in_csv, (table.title, row.name, row.method))
            counts = [row.classes.get(name, {}).get(figure, "") for name in classes for figure in _OF_CLASS.values()]
            writer.writerow([*words, len(row.places), in_csv("; ".join(row.marks)), *figures, *counts])
    return out.getvalue()


def _heads(column: Column) -> list[str]:
    label = in_csv(column.label)
    return [label, f"{label} low", f"{label} high"] if column.better else [label]


def _figures(row: Row, column: Column) -> list[str]:
    cell = row.cells.get(column.key)
    if cell is None:
        return [""] * len(_heads(column))
    numbers = [cell.value, *(cell.interval or (None, None))][: len(_heads(column))]
    return ["" if number is None else "NaN" if math.isnan(number) else f"{number:.6g}" for number in numbers]


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown; bold is better than every other beyond both intervals."""
    parts = []
    for table in tables:
        lines = _lines(table, in_markdown, lambda text: f"**{text}**")
        head, *body = [f"| {' | '.join(line)} |" for line in lines]
        rule = f"|---|---|{'---:|' * len(table.columns)}"
        parts.append("\n".join([f"**{in_markdown(table.title)}**", "", head, rule, *body, "", CAPTION, ""]))
    return "\n".join(parts)


def as_latex(tables: Sequence[Table]) -> str:
    """Return the tables as LaTeX for the package booktabs; bold is better than every other beyond both intervals."""
    parts = []
    for table in tables:
        head, *body = [
            " & ".join(line) + r" \\" for line in _lines(table, _in_latex, lambda text: rf"\textbf{{{text}}}")
        ]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{_in_latex(table.title)}. {_in_latex(CAPTION)}}}",
                    rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
                    r"\toprule",
                    head,
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                    "",
                ]
            )
        )
    return "\n".join(parts)


CAPTION = (
    "Shares in percent with 95 % intervals: Wilson's over the test images of one run; Student's over the seeds where a "
    "row is several runs, and never narrower than the images allow. Bold is better than every other row beyond both "
    "intervals."
)
"""What must be said below a table."""


def _lines(table: Table, written: Written, bold: Written) -> list[list[str]]:
    lines = [["run", "method", *(written(column.label) for column in table.columns)]]
    for number, row in enumerate(table.rows):
        marks = f" ({'; '.join(row.marks)})" if row.marks else ""
        seeds = f", {len(row.members)} seeds" if row.members else ""
        cells = []
        for column in table.columns:
            text = format_cell(row, column)
            cells.append(bold(text) if table.best.get(column.key) == number else text)
        lines.append([written(f"{row.name}{seeds}{marks}"), written(row.method), *cells])
    return lines


def format_cell(row: Row, column: Column) -> str:
    """Return a cell as one piece of text: the figure, its interval and its note, or ``not run``."""
    cell = row.cells.get(column.key)
    if cell is None:
        return "not run"
    interval = f" [{column.range(cell).replace('–', ', ')}]" if cell.interval else ""
    return f"{column.text(cell)}{interval}{f' ({cell.note})' if cell.note else ''}"


def in_csv(text: str) -> str:
    """Return text as a cell that a spreadsheet does not take for a formula: then it begins with an apostrophe."""
    plain = visible(text)
    return f"'{plain}" if plain.lstrip().startswith(("=", "+", "-", "@")) else plain


def in_markdown(text: str) -> str:
    """Return text as one line that neither Markdown nor HTML obeys."""
    plain = escape(one_line(text), quote=False)
    return "".join(f"\\{letter}" if letter in _MARKDOWN else letter for letter in plain)


def in_code(text: str) -> str:
    """Return text as Markdown's code on one line, whatever backticks are in it."""
    plain = one_line(text)
    if "`" not in plain:
        return f"`{plain}`"
    fence = _longer(plain, 1)
    return f"{fence} {plain} {fence}"


def fence_around(text: str) -> str:
    """Return a fence for a block of Markdown code that this text cannot end."""
    return _longer(text, 3)


def _longer(text: str, least: int) -> str:
    return "`" * max(least, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in one_line(text))
