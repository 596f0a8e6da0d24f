"""The offline page: the tables, and the plane of clean against worst-case accuracy."""

from collections.abc import Sequence
from typing import Any

from overproof.report.table import Table, tables


def page(evaluations: Sequence[dict[str, Any]], *, title: str, lead: str = "") -> str:
    """Return one self-contained HTML page for evaluations; it requests nothing from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("overproof", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    found = tables(evaluations)
    origins = {
        f"overproof {evaluation['versions']['overproof']}, torch {evaluation['versions']['torch']}, "
        f"{evaluation['hardware']}"
        for evaluation in evaluations
    }
    return environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        tables=found,
        figures=[_plane(table, first=index == 0) for index, table in enumerate(found)],
        provenance="Measured with " + "; ".join(sorted(origins)) + ".",
    )


def _plane(table: Table, *, first: bool) -> str:
    """Return a scatter of worst-case against clean accuracy, one trace per method; the script comes with the first."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for method in dict.fromkeys(row.method for row in table.rows):
        rows = [row for row in table.rows if row.method == method]
        bars: dict[str, Any] = {}
        for axis, column in (("x", "clean"), ("y", "worst")):
            cells = [row.cells[column] for row in rows]
            bars[axis] = [100 * cell.share for cell in cells]
            bars[f"error_{axis}"] = {
                "symmetric": False,
                "array": [100 * (cell.interval[1] - cell.share) for cell in cells],
                "arrayminus": [100 * (cell.share - cell.interval[0]) for cell in cells],
            }
        figure.add_scatter(mode="markers", name=method, text=[row.name for row in rows], marker_size=10, **bars)
    figure.update_layout(
        template="plotly_white",
        xaxis_title="clean accuracy, %",
        yaxis_title="accuracy under every attack, %",
        height=480,
        margin={"t": 20},
    )
    html: str = figure.to_html(full_html=False, include_plotlyjs="inline" if first else False)
    return html
