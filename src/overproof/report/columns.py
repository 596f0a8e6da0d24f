"""What is said of one run: its figures, each under a column with a meaning."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from overproof.report.findings import Findings, Plain
from overproof.statistics import Proportion
from overproof.wording import one_line

Unit = Literal["share", "number", "count", "minutes"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure, the 95 % interval of it where there is one, and a note on what it rests on."""

    value: float
    interval: tuple[float, float] | None = None
    note: str = ""

    @classmethod
    def of(cls, proportion: Plain, *, note: str = "") -> "Cell":
        """Return the share that a piece of evidence, as JSON holds it, stands for; its interval is Wilson's."""
        evidence = Proportion(claim=proportion["claim"], passed=proportion["passed"], of=proportion["of"])
        return cls(value=evidence.share, interval=evidence.interval, note=note)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: ``key`` of its cells, ``label``, what its figures are (shares in [0, 1]) and ``about`` in one sentence.

    ``better`` is 1 where more is better, -1 where less is, 0 where neither.
    """

    key: str
    label: str
    unit: Unit
    group: Literal["accuracy", "balanced", "attacks", "proof", "confidence", "cost"]
    about: str
    better: int = 0

    def text(self, cell: Cell) -> str:
        """Return a cell's figure: a share in percent, a count in full or as k, M, G."""
        return self._written(cell.value)

    def range(self, cell: Cell) -> str:
        """Return a cell's interval, or nothing."""
        return "" if cell.interval is None else "–".join(self._written(end) for end in cell.interval)

    def _written(self, value: float) -> str:
        if not math.isfinite(value):
            return "NaN"
        if self.unit == "share":
            return f"{100 * value:.1f}"
        if self.unit == "number":
            return f"{value:.3f}"
        return f"{value:.1f}" if self.unit == "minutes" else _format_count(value)


# Without figures: seeds of one recipe stay one row.
_ANSWERS = {
    "fail": "answers one class for nearly all images",
    "suspect": "clean accuracy no better than always answering the most frequent class",
}
_BALANCED = {"balanced": "clean", "balanced_worst": "worst"}

FIXED: Mapping[str, Column] = {
    column.key: column
    for column in (
        Column(
            key="clean", label="clean", unit="share", group="accuracy", better=1, about="Accuracy without an attack."
        ),
        Column(
            key="worst",
            label="worst case",
            unit="share",
            group="accuracy",
            better=1,
            about="Accuracy under every attack at once: an image counts when none of them broke it.",
        ),
        Column(
            key="w_robust",
            label="W-Robust",
            unit="share",
            group="accuracy",
            better=1,
            about="Half clean, half worst-case accuracy; the interval is half of both, at least as wide as it must be.",
        ),
        Column(
            key="balanced",
            label="balanced clean",
            unit="share",
            group="balanced",
            better=1,
            about="Balanced accuracy: the mean over the classes of clean accuracy, whatever their sizes.",
        ),
        Column(
            key="balanced_worst",
            label="balanced worst case",
            unit="share",
            group="balanced",
            better=1,
            about="The mean over the classes of accuracy in the worst case.",
        ),
        Column(
            key="ece",
            label="ECE",
            unit="number",
            group="confidence",
            better=-1,
            about="Expected calibration error on clean images, 15 bins; 0 is best.",
        ),
        Column(
            key="ece_attacked",
            label="ECE attacked",
            unit="number",
            group="confidence",
            better=-1,
            about="Expected calibration error at the worst points found.",
        ),
        Column(
            key="agreement",
            label="agreement",
            unit="share",
            group="confidence",
            better=1,
            about="Clean images to which student and teacher give the same class.",
        ),
        Column(
            key="agreement_attacked",
            label="agreement attacked",
            unit="share",
            group="confidence",
            better=1,
            about="The same at the worst points found for the student.",
        ),
        Column(
            key="gap",
            label="confidence gap",
            unit="number",
            group="confidence",
            better=-1,
            about="Mean difference of the two confidences in the teacher's class, on clean images.",
        ),
        Column(
            key="gap_attacked",
            label="confidence gap attacked",
            unit="number",
            group="confidence",
            better=-1,
            about="The same at the worst points found for the student.",
        ),
        Column(key="parameters", label="parameters", unit="count", group="cost", about="Learnable parameters."),
        Column(
            key="multiply_adds",
            label="multiply-adds",
            unit="count",
            group="cost",
            about="Multiply-adds of one forward pass on one image.",
        ),
        Column(
            key="minutes",
            label="training minutes",
            unit="minutes",
            group="cost",
            about="Wall-clock minutes of training; only to be compared on the same, otherwise idle machine.",
        ),
        Column(
            key="passes",
            label="training passes",
            unit="count",
            group="cost",
            about="Forward and backward passes of a batch in training, all networks together.",
        ),
    )
}


def columns_of(findings: Findings) -> dict[str, tuple[Column, Cell]]:
    """Return the cells of one run with their columns, in the order of a table."""
    evaluation = findings.evaluation
    clean, worst = Cell.of(evaluation["clean"]), Cell.of(evaluation["worst"])
    columns = {
        "clean": (FIXED["clean"], clean),
        **_attacks(evaluation),
        "worst": (FIXED["worst"], worst),
        "w_robust": (FIXED["w_robust"], _average(clean, worst)),
        **_balanced_columns(evaluation),
        **_certified_columns(findings),
    }
    numbers: dict[str, float | None] = {}
    for suffix, name in (("", "clean"), ("_attacked", "attacked")):
        calibration = evaluation.get("calibration") or {}
        numbers[f"ece{suffix}"] = calibration[name]["ece"] if name in calibration else None
        if evaluation.get("teacher"):
            part = evaluation["teacher"][name]
            columns[f"agreement{suffix}"] = (FIXED[f"agreement{suffix}"], Cell.of(part["same"]))
            numbers[f"gap{suffix}"] = part["gap"]
    epochs = findings.metrics
    numbers["parameters"] = evaluation["parameters"]
    numbers["multiply_adds"] = findings.multiply_adds
    numbers["minutes"] = sum(epoch["seconds"] for epoch in epochs) / 60 if epochs else None
    numbers["passes"] = (
        sum(sum(network.values()) for epoch in epochs for network in epoch.get("passes", {}).values()) or None
    )
    columns |= {key: (FIXED[key], Cell(value=float(value))) for key, value in numbers.items() if value is not None}
    return columns


def _attacks(evaluation: Plain) -> dict[str, tuple[Column, Cell]]:
    columns: dict[str, tuple[Column, Cell]] = {}
    survivors = bool((evaluation.get("suite") or {}).get("survivors"))
    before: list[str] = []
    for name, attack in evaluation["attacks"].items():
        # The same word for another search, or after other attacks, is another column.
        meaning = json.dumps([attack.get("trial"), before if survivors else None], sort_keys=True)
        before.append(name)
        about = f"Accuracy {'after' if survivors else 'under'} {name}"
        about += f", on what {', '.join(before[:-1])} left." if survivors and before[:-1] else "."
        label = one_line(name, 300)
        column = Column(
            key=f"attack {name} {meaning}", label=label, unit="share", group="attacks", better=1, about=about
        )
        columns[column.key] = (column, Cell.of(attack))
    return columns


def _balanced_columns(evaluation: Plain) -> dict[str, tuple[Column, Cell]]:
    """Return balanced accuracies where classes are unequal, beyond the one image by which shares of a subset differ."""
    classes = evaluation.get("per_class") or ()
    if max((one["of"] for one in classes), default=0) - min((one["of"] for one in classes), default=0) <= 1:
        return {}
    shares = {key: [one[part] / one["of"] for one in classes] for key, part in _BALANCED.items()}
    return {key: (FIXED[key], Cell(value=mean(values))) for key, values in shares.items()}


def _certified_columns(findings: Findings) -> dict[str, tuple[Column, Cell]]:
    if findings.certificate is None:
        return {}
    certificate, data = findings.certificate, findings.evaluation["data"]
    threat, verified = certificate["threat"], certificate["verified"]
    region = f"{threat['norm']} {threat['eps']}"
    smoothed = certificate["kind"] == "smoothing"
    about = f"Images proved to be classified correctly in the whole region, {region}"
    about += "; of the smoothed network, which answers by vote under noise." if smoothed else "."
    column = Column(
        key=f"certified {region} {smoothed}",
        label=f"certified {region}{' (smoothed)' if smoothed else ''}",
        unit="share",
        group="proof",
        better=1,
        about=about,
    )
    fewer = verified["of"] < data["examples"]
    return {column.key: (column, Cell.of(verified, note=f"{verified['of']} images" if fewer else ""))}


def _average(clean: Cell, worst: Cell) -> Cell:
    assert clean.interval is not None and worst.interval is not None
    low, high = (mean(ends) for ends in zip(clean.interval, worst.interval, strict=True))
    return Cell(value=(clean.value + worst.value) / 2, interval=(low, high))


def marks_of(evaluation: Plain) -> tuple[str, ...]:
    """Return what must stand beside a run's figures."""
    selected, suite = str(evaluation.get("selected_on", "unknown")), evaluation.get("suite") or {}
    marks = [] if selected.startswith("held-out") else [f"selected on: {selected}"]
    if suite.get("caution"):
        marks.append(f"{suite['name']}: {suite['caution']}")
    level = (evaluation.get("answers") or {}).get("level")
    if level in _ANSWERS:
        marks.append(_ANSWERS[level])
    reliability = evaluation.get("reliability")
    if reliability and reliability["result"] != "pass":
        marks.append(f"reliability: {reliability['result']}")
    return tuple(marks)


def _format_count(value: float) -> str:
    if value < 1e6:
        return f"{value:,.0f}"
    return f"{value / 1e9:,.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"
