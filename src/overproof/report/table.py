"""Findings as tables: one table per data set and threat model, because figures of different ones never mix.

Runs that differ in nothing but their seed are one row: a mean, and a 95 % interval over the seeds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from overproof.report.columns import FIXED, Cell, Column, columns_of, marks_of
from overproof.report.findings import Findings, Plain
from overproof.statistics import Spread
from overproof.wording import one_line

_HEADLINE = ("ece", "agreement", "gap")  # and a certificate, whose column depends on its radius


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run, or several that differ in their seed (``members``); a cell per column, absent where it was not run.

    ``places`` are the runs' places among all findings. ``marks`` are what a reader must know before the figures.
    ``others`` are results kept beside the ones shown, each in one line.
    ``classes`` are a single run's counts by the name of a class: ``of`` how many, correct ``clean`` and ``worst``.
    """

    name: str
    method: str
    cells: Mapping[str, Cell]
    places: tuple[int, ...]
    marks: tuple[str, ...] = ()
    members: tuple["Row", ...] = ()
    others: tuple[str, ...] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows on the same images under the same threat; ``columns`` with the attacks in the order they were first seen.

    ``best`` names the row of a column whose interval lies wholly on the better side of every other one.
    """

    title: str
    heading: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    best: Mapping[str, int]

    @property
    def shared(self) -> tuple[str, ...]:
        """The marks that every row has, to be said once."""
        return tuple(mark for mark in self.rows[0].marks if all(mark in row.marks for row in self.rows))

    @property
    def not_run(self) -> tuple[str, ...]:
        """What belongs into a headline and none of the rows has, by the labels of its columns."""
        proved = any(column.group == "proof" for column in self.columns)
        known = {column.key for column in self.columns}
        return (*(() if proved else ("certified",)), *(FIXED[key].label for key in _HEADLINE if key not in known))

    @property
    def has_seeds(self) -> bool:
        """Whether a row is a mean over seeds."""
        return any(row.members for row in self.rows)


def tables(findings: Sequence[Findings]) -> list[Table]:
    """Group findings by data and threat, and lay each group out."""
    groups: dict[tuple[str, ...], list[tuple[int, Findings]]] = {}
    for place, one in enumerate(findings):
        groups.setdefault(_footing(one.evaluation), []).append((place, one))
    laid = [_table(group) for group in groups.values()]
    return sorted(laid, key=lambda table: table.title)


def footing(evaluation: Plain, name: str = "") -> str:
    """Return on what an evaluation stands: images (called ``name``) and threat model, in one line."""
    data, threat = evaluation["data"], evaluation["threat"]
    return (
        f"{name or one_line(str(data['name']), 300)}, {data['examples']} of {data['of']} test images "
        f"({data['digest'][:8]}), {threat['norm']} eps {threat['eps']}"
    )


def _footing(evaluation: Plain) -> tuple[str, ...]:
    """Return on what an evaluation stands: images, by their digest whatever they are called, and threat model."""
    data, threat = evaluation["data"], evaluation["threat"]
    return tuple(map(str, (data["digest"], data["examples"], data["of"], threat["norm"], threat["eps"])))


def _table(group: list[tuple[int, Findings]]) -> Table:
    columns: dict[str, Column] = {}
    single: list[Row] = []
    for place, findings in group:
        cells = columns_of(findings)
        columns |= {key: column for key, (column, _) in cells.items() if key not in columns}
        single.append(
            Row(
                name=findings.name,
                method=findings.method,
                cells={key: cell for key, (_, cell) in cells.items()},
                places=(place,),
                marks=marks_of(findings.evaluation),
                others=tuple(map(str, findings.others)),
                classes={str(one["class"]): one for one in findings.evaluation.get("per_class") or ()},
            )
        )
    rows = [_fold(group, columns) for group in _by_seed(group, single)]
    first = group[0][1].evaluation
    names = dict.fromkeys(one_line(str(one.evaluation["data"]["name"]), 300) for _, one in group)
    name = " = ".join(names)
    laid = _in_order(columns)
    return Table(
        title=footing(first, name),
        heading=f"{name}, {first['threat']['norm']} eps {first['threat']['eps']}",
        columns=laid,
        rows=tuple(rows),
        best=_best(laid, rows),
    )


def _in_order(columns: Mapping[str, Column]) -> tuple[Column, ...]:
    """Return the columns as a table has them: clean, attacks, worst case, proofs, the rest; no label twice."""
    fixed = [column for key, column in FIXED.items() if key in columns]
    kinds = {group: [column for column in columns.values() if column.group == group] for group in ("attacks", "proof")}
    balanced = [column for column in fixed if column.group == "balanced"]
    rest = [column for column in fixed[3:] if column.group != "balanced"]
    laid = [*fixed[:1], *kinds["attacks"], *fixed[1:3], *balanced, *kinds["proof"], *rest]
    seen: dict[str, int] = {}
    for number, column in enumerate(laid):
        seen[column.label] = seen.get(column.label, 0) + 1
        if seen[column.label] > 1:
            laid[number] = replace(column, label=f"{column.label} ({seen[column.label]})")
    return tuple(laid)


def _by_seed(group: list[tuple[int, Findings]], rows: list[Row]) -> list[list[Row]]:
    """Return the rows in groups that differ in nothing but the seed; the same seed twice is two groups."""
    groups: dict[tuple[str, int], list[Row]] = {}
    seeds: dict[tuple[str, int], set[Any]] = {}
    for (place, findings), row in zip(group, rows, strict=True):
        key, seed, turn = _without_seed(place, findings, row), findings.evaluation.get("recipe_seed"), 0
        while seed in seeds.setdefault((key, turn), set()):
            turn += 1
        groups.setdefault((key, turn), []).append(row)
        seeds[key, turn].add(seed)
    return list(groups.values())


def _without_seed(place: int, findings: Findings, row: Row) -> str:
    """Return all that makes a run what it is but its seed; without a recipe nothing is known to be the same."""
    if findings.recipe is None:
        return str(place)
    other = ("name", "seed", "evaluation", "trackers")
    recipe = {key: value for key, value in findings.recipe.items() if key not in other}
    attacks = [key for key in row.cells if key.startswith("attack ")]
    return json.dumps([recipe, attacks, row.marks], sort_keys=True)


def _fold(group: list[Row], columns: Mapping[str, Column]) -> Row:
    """Return one row for the runs of a group: means, and Student's intervals over the seeds."""
    if len(group) == 1:
        return group[0]
    cells = {}
    for key, column in columns.items():
        known = [row.cells[key] for row in group if key in row.cells]
        if known:
            cells[key] = _mean(known, column, len(group))
    return Row(
        name=_common_name(group),
        method=group[0].method,
        cells=cells,
        places=tuple(place for row in group for place in row.places),
        marks=group[0].marks,
        members=tuple(group),
        others=tuple(other for row in group for other in row.others),
    )


def _mean(known: list[Cell], column: Column, of: int) -> Cell:
    values = [cell.value for cell in known]
    notes = dict.fromkeys(cell.note for cell in known if cell.note)
    note = "; ".join([*notes, *([f"{len(known)} of {of} seeds"] if len(known) < of else [])])
    if column.group == "cost" or not all(map(math.isfinite, values)):
        return Cell(value=mean(values), note=note)
    if len(known) == 1:
        return replace(known[0], note=note)
    spread = Spread.of(values)
    low, high = spread.mean - spread.half_width, spread.mean + spread.half_width
    images = [cell.interval for cell in known if cell.interval is not None]
    if images:  # equal seeds are no proof of precision: the images leave their own doubt
        low, high = min(low, mean(one[0] for one in images)), max(high, mean(one[1] for one in images))
    bounded = (max(0.0, low), min(1.0, high))  # shares, errors and gaps all lie in [0, 1]
    return Cell(value=spread.mean, interval=bounded, note=note)


def _common_name(group: list[Row]) -> str:
    """Return what the names share: without the number at the end where that leaves one name, else the method."""
    stems = {row.name.rstrip("0123456789").rstrip("-_ ") for row in group}
    return stems.pop() if len(stems) == 1 and "" not in stems else group[0].method


def _best(columns: Sequence[Column], rows: Sequence[Row]) -> dict[str, int]:
    """Return per column the row that is better than every other beyond both intervals; none among unlike attacks."""
    attacked = {tuple(key for key in row.cells if key.startswith("attack ")) for row in rows}
    best = {}
    for column in columns:
        if not column.better or (column.key in ("worst", "w_robust") and len(attacked) > 1):
            continue
        known = {
            number: row.cells[column.key].interval or (math.nan, math.nan)
            for number, row in enumerate(rows)
            if column.key in row.cells
        }
        for number, (low, high) in known.items():
            others = [ends for other, ends in known.items() if other != number]
            if others and all(low > ends[1] if column.better > 0 else high < ends[0] for ends in others):
                best[column.key] = number
    return best
