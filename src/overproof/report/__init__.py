"""Pages and tables of results."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.report.findings import Findings
    from overproof.report.table import Table, tables
    from overproof.report.text import as_csv, as_latex, as_markdown

_HOMES = {
    "Findings": "overproof.report.findings",
    "Table": "overproof.report.table",
    "as_csv": "overproof.report.text",
    "as_latex": "overproof.report.text",
    "as_markdown": "overproof.report.text",
    "tables": "overproof.report.table",
}

__all__ = [
    "Findings",
    "Table",
    "as_csv",
    "as_latex",
    "as_markdown",
    "tables",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
