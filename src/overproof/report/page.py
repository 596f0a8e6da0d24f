"""The offline page: everything that runs hold, in one file that requests nothing from anywhere."""

import gzip
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import yaml

from overproof.report.charts import brackets, of_run, per_class, planes, radii, survivors
from overproof.report.findings import Findings
from overproof.report.overfitting import overfitting
from overproof.report.pictures import album
from overproof.report.provenance import commands, compare_recipes, missing
from overproof.report.table import tables
from overproof.report.text import CAPTION

_SCRIPTS = ("table.js", "charts.js", "pictures.js", "page.js")

_ABSENT = {"warnings": (), "suite": {"name": "recipe", "survivors": False}, "selected_on": "unknown"}
_ABSENT |= dict.fromkeys(("model_digest", "seed", "search_precision"), "not recorded")


def page(findings: Sequence[Findings], *, title: str, lead: str = "") -> str:
    """Return one self-contained HTML page for runs, at least one.

    Its content security policy allows nothing to be fetched and no script to run but those written into it here.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("overproof", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and keys stay in their order
    all_tables = tables(findings)
    runs = [_run(place, one) for place, one in enumerate(findings)]
    rows = [row for table in all_tables for row in table.rows]
    across = _across(findings, all_tables)
    charts = {**across, **{f"{name}-{run['place']}": chart for run in runs for name, chart in run["charts"].items()}}
    images = album(findings)
    methods = list(dict.fromkeys(one.method for one in findings))
    own = "\n".join(_read(name) for name in _SCRIPTS)
    own = f'(() => {{\n"use strict";\n{own}}})();'
    plotly = get_plotlyjs()
    html = environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        tables=all_tables,
        methods=methods,
        runs=runs,
        charts=charts,
        across=list(across),
        # Seeds of one recipe differ in nothing else, so one of them stands for its row.
        compared=[row.name for row in rows],
        differences=compare_recipes([findings[row.places[0]] for row in rows]),
        caption=CAPTION,
        meanings=dict.fromkeys((column.label, column.about) for table in all_tables for column in table.columns),
        style=_read("page.css"),
        plotly=_pack(plotly),
        own=own,
        policy=_policy(plotly, own),
        data=_strict({"charts": charts, "images": images, "methods": methods, "classes": [r["classes"] for r in runs]}),
    )
    return html.strip() + "\n"


def _run(place: int, findings: Findings) -> dict[str, Any]:
    evaluation = findings.evaluation
    return {
        "place": place,
        "name": findings.name,
        "method": findings.method,
        "folder": findings.folder,
        "evaluation": _ABSENT | dict(evaluation),
        "certificate": findings.certificate,
        "reliability": evaluation.get("reliability"),
        "classes": list(findings.classes),
        "recipe": _dump(findings.recipe),
        "charts": of_run(findings),
        "per_class": per_class(findings),
        "overfitting": overfitting(findings.metrics) if findings.metrics else "",
        "pictured": findings.pictures is not None,
        "commands": commands(findings),
        "missing": missing(findings),
        "others": findings.others,
    }


def _dump(recipe: Mapping[str, Any] | None) -> str:
    """Return a recipe as YAML, in the order of its keys."""
    if recipe is None:
        return ""
    written: str = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)
    return written


def _across(findings: Sequence[Findings], all_tables: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return the charts that put runs beside each other, each with the title of its panel."""
    charts: dict[str, dict[str, Any]] = {f"plane-{number}": chart for number, chart in enumerate(planes(all_tables))}
    for number, (title, chart) in enumerate(radii(findings).items()):
        charts[f"radius-{number}"] = chart | {"title": title}
    for number, table in enumerate(all_tables):
        curves = survivors(findings, [place for row in table.rows for place in row.places])
        if curves:
            charts[f"survivors-{number}"] = curves | {"title": table.heading}
    proofs = brackets(findings)
    return charts | ({"brackets": proofs} if proofs else {})


@cache
def _pack(script: str) -> str:
    """Return a script as the page carries it: gzip in base64, a third of its size."""
    return b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _policy(*scripts: str) -> str:
    """Return a content security policy: nothing from anywhere, these scripts alone, images from the page itself."""
    sums = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in sums)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _strict(value: Any) -> Any:
    """Return JSON values with null for every number that JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    return [_strict(part) for part in value] if isinstance(value, list | tuple) else value


def _read(name: str) -> str:
    return files("overproof.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")
