"""Evaluations as tables: one table per data set and threat model, because figures of different ones never mix."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from overproof.evaluation.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run: its name, method, size, and a cell per column (absent where it was not run)."""

    name: str
    method: str
    parameters: int
    cells: dict[str, Evidence]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Runs evaluated on the same images under the same threat; ``columns`` in the order attacks were first seen."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(evaluations: Sequence[dict[str, Any]]) -> list[Table]:
    """Group evaluations (the contents of ``evaluation.json``) by data and threat, and lay each group out."""
    ordered = sorted(evaluations, key=_footing)
    return [_table(title, list(group)) for title, group in groupby(ordered, key=_footing)]


def _footing(evaluation: dict[str, Any]) -> str:
    data, threat = evaluation["data"], evaluation["threat"]
    return (
        f"{data['name']}, {data['examples']} of {data['of']} test images ({data['digest'][:8]}), "
        f"{threat['norm']} eps {threat['eps']}"
    )


def _table(title: str, evaluations: list[dict[str, Any]]) -> Table:
    attacks = dict.fromkeys(name for evaluation in evaluations for name in evaluation["attacks"])
    rows = [
        Row(
            name=evaluation["run"],
            method=evaluation["method"],
            parameters=evaluation["parameters"],
            cells={
                "clean": _cell(evaluation["clean"]),
                **{name: _cell(found) for name, found in evaluation["attacks"].items()},
                "worst": _cell(evaluation["worst"]),
            },
        )
        for evaluation in evaluations
    ]
    return Table(title=title, columns=("clean", *attacks, "worst"), rows=tuple(rows))


def _cell(found: dict[str, Any]) -> Evidence:
    return Evidence(claim=found["claim"], passed=found["passed"], of=found["of"])
