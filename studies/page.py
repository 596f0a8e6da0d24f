"""The pages of the studies, made from their files and figures alone; a figure is a plain SVG, readable offline."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from overproof.statistics import Spread
from studies.grid import FOLDER, Study, read_study
from studies.result import RESULTS, result_file

NOT_RUN = "not run yet"
# Okabe and Ito's colours, which colour-blind readers can tell apart; shapes say the same.
_CHARACTERS = 90  # of a line below the picture
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 380, 70, 56, 20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure of one row over its seeds: a mean and half of its interval (None: of one seed), or a text."""

    mean: float = math.nan
    half: float | None = None
    text: str = ""


def pages(studies: Path = FOLDER, results: Path = RESULTS, out: Path = RESULTS.parent) -> dict[Path, str]:
    """Return the index, and a page and a figure for every study, by their paths."""
    found, lines = {}, []
    for file in sorted(studies.glob("*.yaml")):
        study = read_study(file)
        result = _read(result_file(study, results))
        drawing = svg(study, result)
        found[out / f"study-{study.name}.md"] = page(study, result, drawn=bool(drawing))
        if drawing:
            found[out / "figures" / f"{study.name}.svg"] = drawing
        lines.append(_index_line(study, result))
    return {out / "index.md": INDEX.format(table="\n".join(lines)), **found}


def page(study: Study, result: Mapping[str, Any], *, drawn: bool) -> str:
    """Return a study's page."""
    runs = result["runs"]
    reduced = f"\n**Reduced form**: {study.page.reduced}\n" if study.page.reduced else ""
    page = study.page
    parts = [f"# {page.title}\n{reduced}\n**Claim.** {page.claim.strip()}\n\n**Source.** {page.source.strip()}"]
    parts += _found(study, result)
    if drawn:
        parts.append(f"![{study.page.title}](figures/{study.name}.svg)")
    parts.append(f"**Reading.** {study.page.reading.strip() or NOT_RUN}")
    parts.append(f"## How it was made\n\n    {result['command']}\n\n{_provenance(study, runs)}")
    return "\n\n".join(parts) + "\n"


def summary(study: Study, results: Path = RESULTS) -> str:
    """Return a study's table and reading for another page of the documentation, with where the rest of it is."""
    parts = _found(study, _read(result_file(study, results)))
    more = f"Teachers, commands, seeds, minutes and hardware: [the study](results/study-{study.name}.md)."
    return "\n\n".join([*parts, *filter(None, [study.page.reading.strip()]), more])


def _found(study: Study, result: Mapping[str, Any]) -> list[str]:
    """Return the table and what it means, or that there is none yet."""
    runs = result["runs"]
    if not runs:
        return [f"**{NOT_RUN.capitalize()}.**"]
    missing = [name for name in study.runs if not any(run["run"] == name for run in runs)]
    return [table(study, result), NOTE + (f" {NOT_RUN.capitalize()}: {', '.join(missing)}." if missing else "")]


def table(study: Study, result: Mapping[str, Any]) -> str:
    """Return the table: a line per row of the study that has been run, a column per figure."""
    head = ["network", "seeds", *study.page.columns]
    lines = [head, ["---"] * len(head)]
    for name in study.runs:
        group = [run for run in result["runs"] if run["run"] == name]
        if group:
            cells = [_cell(group, column, spec.form) for column, spec in study.page.columns.items()]
            lines.append([study.page.labels.get(name) or f"`{name}`", str(len(group)), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(group: Sequence[Mapping[str, Any]], column: str) -> Measured | None:
    """Return a row's figure: mean and Student interval over seeds, Wilson's over images for one seed; None without."""
    found = [run["figures"][column] for run in group if column in run["figures"]]
    if not found:
        return None
    values = [one["value"] for one in found]
    if isinstance(values[0], str):
        return Measured(text=", ".join(dict.fromkeys(map(str, values))))
    spread = Spread.of(values)
    return Measured(mean=spread.mean, half=None if len(values) == 1 else spread.half_width)


def svg(study: Study, result: Mapping[str, Any]) -> str:
    """Return the study's figure, or an empty text where there is nothing to draw yet."""
    if study.page.figure is None:
        return ""
    points = []  # of each column: (row's number, x, y)
    numbers: dict[str, int] = {}  # of the rows that have a point
    for column in study.page.figure.y:
        for name in study.runs:
            group = [run for run in result["runs"] if run["run"] == name]
            x, y = measured(group, study.page.figure.x), measured(group, column)
            if x and y and not x.text and not y.text:
                points.append((column, numbers.setdefault(name, len(numbers) + 1), x, y))
    if not points:
        return ""
    scale_x = _Scale.over([x for _, _, x, _ in points], _LEFT, _WIDTH - 20, _factor(study, study.page.figure.x))
    scale_y = _Scale.over([y for *_, y in points], _HEIGHT - _BOTTOM, _TOP, _factor(study, study.page.figure.y[0]))
    parts = [*_axes(study, scale_x, scale_y)]
    for place, column in enumerate(study.page.figure.y):
        own = [(number, x, y) for name, number, x, y in points if name == column]
        parts += _series(own, COLOURS[place % len(COLOURS)], scale_x, scale_y, study.page.figure.lines)
    if len(study.page.figure.y) > 1:
        parts += [
            f'<text x="{_LEFT + 8}" y="{_TOP + 14 + 16 * place}" fill="{colour}">{escape(name)}</text>'
            for place, (name, colour) in enumerate(zip(study.page.figure.y, cycle(COLOURS), strict=False))
        ]
    rows = _legend([f"{number} {study.page.labels.get(name, name)}" for name, number in numbers.items()])
    parts += [f'<text x="{_LEFT}" y="{_HEIGHT + 16 * line + 4}">{escape(row)}</text>' for line, row in enumerate(rows)]
    height = _HEIGHT + 16 * len(rows) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12">\n<title>{escape(study.page.title)}</title>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _legend(entries: Sequence[str]) -> list[str]:
    """Return lines of entries, each line as long as fits below the picture."""
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + len(entry) < _CHARACTERS:
            lines[-1] += f";  {entry}"
        else:
            lines.append(entry)
    return lines


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Figures in units of the axis (percent are a hundred times the share) to places in the picture."""

    low: float
    high: float
    start: float
    end: float
    factor: float

    @classmethod
    def over(cls, values: Sequence[Measured], start: float, end: float, factor: float) -> "_Scale":
        """Return a scale that holds all intervals, with some air."""
        edges = [factor * (one.mean + sign * (one.half or 0)) for one in values for sign in (-1, 1)]
        air = 0.06 * (max(edges) - min(edges)) or 0.05 * abs(max(edges)) or 1.0
        return cls(low=min(edges) - air, high=max(edges) + air, start=start, end=end, factor=factor)

    def at(self, value: float) -> float:
        """Return the place of a figure."""
        share = (self.factor * value - self.low) / (self.high - self.low)
        # The first rounding takes away the last digits, which differ between versions and would decide ties.
        return round(round(self.start + share * (self.end - self.start), 6), 1)

    @property
    def ticks(self) -> list[float]:
        """Round numbers along the axis, at most eight."""
        rough = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]


def _axes(study: Study, x: _Scale, y: _Scale) -> list[str]:
    assert study.page.figure is not None
    floor = _HEIGHT - _BOTTOM
    parts = [f'<path d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - 20}" fill="none" stroke="#555"/>']
    for tick in x.ticks:
        place = x.at(tick / x.factor)
        parts.append(f'<text x="{place}" y="{floor + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks:
        place = y.at(tick / y.factor)
        parts.append(f'<path d="M{_LEFT} {place}H{_WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4}" text-anchor="end">{tick:g}</text>')
    up = _titled(study, study.page.figure.y[0]) if len(study.page.figure.y) == 1 else ""
    middle = (_TOP + floor) / 2
    under = _titled(study, study.page.figure.x)
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{floor + 36}" text-anchor="middle">{under}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{up}</text>')
    return parts


def _series(
    points: Sequence[tuple[int, Measured, Measured]], colour: str, scale_x: _Scale, scale_y: _Scale, lines: bool
) -> list[str]:
    parts = []
    if lines and len(points) > 1:
        ordered = sorted((scale_x.at(x.mean), scale_y.at(y.mean)) for _, x, y in points)
        joined = " ".join(f"{x},{y}" for x, y in ordered)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}"/>')
    for number, x, y in points:
        across, up = scale_x.at(x.mean), scale_y.at(y.mean)
        if x.half:
            parts.append(
                f'<path d="M{scale_x.at(x.mean - x.half)} {up}H{scale_x.at(x.mean + x.half)}" stroke="{colour}"/>'
            )
        if y.half:
            parts.append(
                f'<path d="M{across} {scale_y.at(y.mean - y.half)}V{scale_y.at(y.mean + y.half)}" stroke="{colour}"/>'
            )
        parts.append(f'<circle cx="{across}" cy="{up}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{round(across + 6, 1)}" y="{round(up - 6, 1)}" fill="{colour}">{number}</text>')
    return parts


def _titled(study: Study, column: str) -> str:
    return escape(column + (", %" if study.page.columns[column].form == "percent" else ""))


def _factor(study: Study, column: str) -> float:
    return 100.0 if study.page.columns[column].form == "percent" else 1.0


def _cell(group: Sequence[Mapping[str, Any]], column: str, form: str) -> str:
    found = measured(group, column)
    if found is None:
        return ""
    if found.text:
        return found.text
    if form == "count":
        return f"{found.mean:,.0f}"
    factor, digits = (100.0, 1) if form == "percent" else (1.0, 3 if abs(found.mean) < 1 else 1)
    text = f"{factor * found.mean:.{digits}f}"
    if found.half is not None:
        return f"{text} ± {factor * found.half:.{digits}f}"
    (one,) = [run["figures"][column] for run in group if column in run["figures"]]
    if "interval" not in one:
        return text
    low, high = (f"{factor * edge:.{digits}f}" for edge in one["interval"])
    return f"{text} [{low}, {high}]"


def _provenance(study: Study, runs: Sequence[Mapping[str, Any]]) -> str:
    cells = {(run["folder"], name): cell for run in runs for name, cell in run["cells"].items()}
    planned = sum(len(study.seeds_of(name)) for name in study.runs)
    facts = [
        f"Planned: {study.page.budget_minutes:g} minutes of one core, {planned} runs. Seeds: {_joined(study.seeds)}."
    ]
    if not runs:
        return facts[0]
    minutes = sum(cell["minutes"] or 0 for cell in cells.values())
    places = {cell["hardware"] for cell in cells.values()} - {None}
    versions = {f"{name} {number}" for cell in cells.values() for name, number in (cell["versions"] or {}).items()}
    commits = {commit for cell in cells.values() for commit in cell["commits"]}
    examples = {f"{name}: {cell['examples']}" for (_, name), cell in cells.items() if cell["examples"]}
    facts.append(
        f"Done: {len(runs)} runs, {len(cells)} processes, {minutes:.0f} minutes (runs that studies share included)."
    )
    facts.append(f"Test images: {_joined(examples)}." if examples else "")
    facts.append(f"Hardware: {_joined(places)}. Versions: {_joined(versions)}. Commits: {_joined(commits)}.")
    taught: dict[str, set[str]] = {}
    for run in runs:
        for teacher in run["teachers"].values():
            taught.setdefault(teacher["folder"], set()).add(teacher["model_digest"][:8])
    facts += [
        f"Not one teacher: {name} was trained more than once, to other weights ({_joined(digests)})."
        for name, digests in taught.items()
        if len(digests) > 1
    ]
    first = runs[-1]["cells"]
    facts.append(
        "Commands, of the last run in the table:\n\n" + "\n".join(f"    {cell['command']}" for cell in first.values())
    )
    return "\n\n".join(filter(None, facts))


def _joined(words: Any) -> str:
    return ", ".join(sorted(map(str, words))) or "unknown"


def _index_line(study: Study, result: Mapping[str, Any]) -> str:
    planned = sum(len(study.seeds_of(name)) for name in study.runs)
    state = f"{len(result['runs'])} of {planned} runs" if result["runs"] else NOT_RUN
    title = f"{study.page.title} (reduced)" if study.page.reduced else study.page.title
    claim = " ".join(study.page.claim.split())
    return f"| [{title}](study-{study.name}.md) | {claim} | {state} | {study.page.budget_minutes:g} |"


def _read(file: Path) -> dict[str, Any]:
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    return {"study": file.stem, "command": f"make study NAME={file.stem}", "runs": []}


NOTE = """Mean ± half of the 95 % Student interval over seeds; of one seed: Wilson's 95 % interval over images, for
shares. Accuracies in percent; minutes are of training."""

INDEX = """# The papers' claims, measured

One grid per claim in `studies/`. `make study NAME=...` runs it, or continues it; runs that several studies share are
trained once. These pages are made by `make docs` from the figures under `docs/results/studies`; none is typed. Other
measurements: [results](../results.md).

| study | claim | done | planned minutes |
|---|---|---|---|
{table}
"""
