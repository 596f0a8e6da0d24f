"""What the charts of a page show, as JSON values; how they are drawn is said in ``charts.js``."""

from collections.abc import Sequence
from typing import Any

from overproof.reading import read_fraction
from overproof.report.columns import Cell
from overproof.report.findings import Findings, Plain
from overproof.report.table import Table

Chart = dict[str, Any]


def planes(tables: Sequence[Table]) -> list[Chart]:
    """Return per table the accuracy-robustness plane: a point per row with its intervals, and one per seed."""
    return [
        {
            "kind": "plane",
            "points": [
                {
                    "name": row.name,
                    "method": row.method,
                    "seeds": len(row.places),
                    "clean": _figure(row.cells["clean"]),
                    "worst": _figure(row.cells["worst"]),
                    "runs": [[one.name, one.cells["clean"].value, one.cells["worst"].value] for one in row.members],
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]


def _figure(cell: Cell) -> list[float]:
    low, high = cell.interval or (cell.value, cell.value)
    return [cell.value, low, high]


def radii(findings: Sequence[Findings]) -> dict[str, Chart]:
    """Return per data set and norm the accuracy of each network against eps.

    A network's points: clean at 0, the worst case of each evaluation and the certified accuracy of each certificate, as
    ``[eps, share, low, high]``. ``probe`` are the radii of the reliability verdict, where a short search attacked some
    correctly classified images: their share times the clean accuracy.
    """
    charts: dict[str, Chart] = {}
    for one in findings:
        evaluation = one.evaluation
        title = f"{evaluation['data']['name']}, {evaluation['threat']['norm']}"
        series = charts.setdefault(title, {"kind": "radius", "norm": evaluation["threat"]["norm"], "series": {}})
        line = series["series"].setdefault(
            evaluation["model_digest"],
            {"name": one.name, "method": one.method, "attacked": [], "certified": [], "probe": []},
        )
        line["attacked"] += [[0.0, *_figure(Cell.of(evaluation["clean"]))], _at_eps(evaluation, "worst")]
        certificate = one.certificate
        if certificate is not None and certificate["threat"]["norm"] == evaluation["threat"]["norm"]:
            line["certified"].append(_at_eps(certificate, "verified"))
        line["probe"] = line["probe"] or _monotone_points(evaluation)
    for chart in charts.values():
        chart["series"] = [
            {**line, "attacked": _in_order(line["attacked"]), "certified": _in_order(line["certified"])}
            for line in chart["series"].values()
        ]
    return {title: chart for title, chart in charts.items() if _worth_drawing(chart)}


def _worth_drawing(chart: Chart) -> bool:
    return any(len(line["attacked"]) > 2 or line["certified"] or line["probe"] for line in chart["series"])


def _at_eps(evaluation: Plain, name: str) -> list[float]:
    return [float(read_fraction(evaluation["threat"]["eps"])), *_figure(Cell.of(evaluation[name]))]


def _in_order(points: list[list[float]]) -> list[list[float]]:
    return sorted({point[0]: point for point in points}.values())


def _monotone_points(evaluation: Plain) -> list[list[float]]:
    signs = (evaluation.get("reliability") or {}).get("signs", ())
    figures: Plain = next((sign["figures"] for sign in signs if sign["name"] == "monotone"), {})
    clean, eps = Cell.of(evaluation["clean"]).value, float(read_fraction(evaluation["threat"]["eps"]))
    points = [(float(name.removeprefix("eps ")), share) for name, share in figures.items() if share is not None]
    near = [[radius, clean * share] for radius, share in points if radius <= 3 * eps]
    return [[0.0, clean], *near] if near else []


def survivors(findings: Sequence[Findings], places: Sequence[int]) -> Chart | None:
    """Return the share of images still robust against the passes of each attack; None where it was not recorded."""
    lines = []
    for place in places:
        evaluation = findings[place].evaluation
        of = evaluation["clean"]["of"]
        for name, attack in evaluation["attacks"].items():
            if of and attack.get("survivors"):
                rows = [[passes, robust / of] for passes, robust in attack["survivors"]]
                lines.append(
                    {"run": findings[place].name, "method": findings[place].method, "attack": name, "rows": rows}
                )
    return {"kind": "survivors", "lines": lines} if lines else None


def brackets(findings: Sequence[Findings]) -> Chart | None:
    """Return what attacks and proofs leave open: the gap to the teacher, faithful examples, certified accuracy."""
    bounds = [_bracket(one, one.certificate) for one in findings if one.certificate is not None]
    return {"kind": "brackets", "runs": bounds} if bounds else None


def _bracket(findings: Findings, certificate: Plain) -> Chart:
    threat, teacher = certificate["threat"], certificate.get("teacher")
    bracket: Chart = {
        "name": findings.name,
        "method": findings.method,
        "region": f"{threat['norm']} {threat['eps']}",
        "images": certificate["verified"]["of"],
        "accuracy": [certificate[side]["share"] for side in ("verified", "standing") if side in certificate],
    }
    if teacher:
        bracket["teacher"] = teacher["name"]
        bracket["counted"] = teacher["examples"]
        bracket["gap"] = {
            side: [teacher[side]["attacked"], teacher[side]["proven"]] for side in ("gap", "under", "over")
        }
        bracket["curve"] = [
            [point["gamma"], point["proven"]["share"], point["standing"]["share"]] for point in teacher["curve"]
        ]
    return bracket


def of_run(findings: Findings) -> dict[str, Chart]:
    """Return the charts about one run: training, selection, controller and reliability, where it holds them."""
    evaluation, epochs = findings.evaluation, findings.metrics
    charts: dict[str, Chart] = {}
    if epochs:
        numbers = [epoch["epoch"] for epoch in epochs]
        names = dict.fromkeys(name for epoch in epochs for name in epoch["terms"])
        charts["training"] = {
            "kind": "training",
            "epochs": numbers,
            "terms": {name: [epoch["terms"].get(name) for epoch in epochs] for name in names},
            "learning_rate": [epoch["learning_rate"] for epoch in epochs],
        }
        validated = [epoch["validation"] for epoch in epochs if epoch.get("validation")]
        if validated:
            charts["selection"] = {
                "kind": "selection",
                **{name: [one[name] for one in validated] for name in ("epoch", "clean", "robust")},
                "best": epochs[-1].get("best_epoch"),
            }
        memory = _trajectories(epochs)
        if memory:
            charts["controller"] = {"kind": "controller", "epochs": numbers, "lines": memory}
    if evaluation.get("calibration"):
        charts["reliability"] = {
            "kind": "reliability",
            "parts": {
                name: {
                    "ece": part["ece"],
                    "of": part["of"],
                    "bins": [
                        [one["lower"], one["upper"], one["count"], one["confidence"], one["accuracy"]]
                        for one in part["bins"]
                    ],
                }
                for name, part in evaluation["calibration"].items()
            },
        }
    return charts


def _trajectories(epochs: Sequence[Plain]) -> dict[str, list[float]]:
    """Return the numbers of a method's memory that move in training, by name and place."""
    lines: dict[str, list[float]] = {}
    for name, first in (epochs[-1].get("state") or {}).items():
        width = len(first) if isinstance(first, list) else 1
        for place in range(width):
            values = [_element(epoch.get("state", {}).get(name), place) for epoch in epochs]
            if len(set(values)) > 1:
                lines[f"{name} {place + 1}" if width > 1 else name] = values
    return lines


def _element(value: Any, place: int) -> Any:
    if not isinstance(value, list):
        return value
    part = value[place] if place < len(value) else None
    return None if isinstance(part, list) else part


def per_class(findings: Findings) -> list[Chart]:
    """Return one line per class: its name, its images, clean and worst-case accuracy with Wilson's intervals."""
    counts: dict[int, list[int]] = {}
    for one in findings.examples:
        right = one["prediction"] == one["label"]
        count = counts.setdefault(one["label"], [0, 0, 0])
        count[0] += 1
        count[1] += right
        count[2] += right and one["broken_by"] is None
    return [
        {
            "name": findings.classes[label] if label < len(findings.classes) else str(label),
            "images": of,
            "clean": Cell.of({"claim": "", "passed": clean, "of": of}),
            "worst": Cell.of({"claim": "", "passed": robust, "of": of}),
        }
        for label, (of, clean, robust) in sorted(counts.items())
    ]
