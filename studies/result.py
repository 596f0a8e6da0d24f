"""What a study has found so far, read from its runs' files; the only thing that its page is made from."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.recipe import leaves, plain
from overproof.runs.folder import Run
from studies.grid import Cell, Column, Study, Trained, cells, examined, trained
from studies.record import record_of

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "studies"


def result_file(study: Study, folder: Path = RESULTS) -> Path:
    """Return where a study's figures are kept."""
    return folder / f"{study.name}.json"


def write_result(study: Study, root: Path, folder: Path = RESULTS) -> dict[str, Any]:
    """Write the figures of everything that is done, whole or not at all; return them.

    What was found before, of the same recipe, stays where its run does not lie here, or lies here examined less.
    """
    before = _recorded(study, folder)
    content = gather(study, root, before)
    make_folder(folder)
    write_atomically(result_file(study, folder), (json.dumps(content, indent=1) + "\n").encode())
    return content


def gather(study: Study, root: Path, before: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return every finished run of a study with its figures, and where each of them is from.

    ``before`` holds what a file says of runs, by their folders' names.
    """
    runs = trained(study, root)
    own = {cell.run.folder: cell for cell in cells(study, root) if not cell.exam}
    found = []
    for run in (runs[row, seed] for row in study.runs for seed in study.seeds_of(row)):
        entry = _entry(study, runs, own[run.folder]) if run.done else None
        earlier = before.get(run.folder.name)
        if earlier and (entry is None or len(earlier["cells"]) > len(entry["cells"])):
            # Rows may share a run.
            entry = {**earlier, "run": run.row}
        if entry:
            found.append(entry)
    return {"study": study.name, "command": f"make study NAME={study.name}", "runs": found}


def left_to_do(study: Study, found: Sequence[Cell], folder: Path = RESULTS) -> list[Cell]:
    """Return the cells whose figures no file holds, and what those need; each as it was.

    A run that another machine trained and examined is not repeated here, unless it has to teach or to be examined.
    """
    before, needed, left = _recorded(study, folder), set[Path](), []
    for cell in reversed(found):
        entry = before.get(cell.run.folder.name, {"cells": {}})
        same = entry["cells"].get(cell.exam or "training", {}).get("command") == _command(cell)
        if not same or cell.folder in needed:
            left.append(cell)
            if not cell.done:
                needed |= set(cell.needs)
    return left[::-1]


def _recorded(study: Study, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a study's file holds of runs, by their folders' names, which mean recipe, teachers and seed."""
    file = result_file(study, folder)
    return {entry["folder"]: entry for entry in json.loads(file.read_text())["runs"]} if file.is_file() else {}


def _entry(study: Study, runs: dict[tuple[str, int], Trained], training: Cell) -> dict[str, Any]:
    run, row = training.run, study.runs[training.run.row]
    left: dict[str, dict[str, Any]] = {"training": _training(run), "recipe": plain(run.recipe)}
    provenance = {"training": _provenance(training, left["training"])}
    for name in study.exams_of(run.row):
        cell = examined(study, runs, run.row, run.seed, name)
        if cell.done:
            left[name] = json.loads(cell.file.read_text())
            provenance[name] = _provenance(cell, left[name])
    return {
        "run": run.row,
        "seed": run.seed,
        "folder": run.folder.name,
        "recipe": row.recipe,
        "set": row.set,
        "recipe_digest": run.recipe.digest,
        "model_digest": Run(run.folder).description()["digest"],
        "teachers": {
            role: {"folder": one.folder.name, "model_digest": Run(one.folder).description()["digest"]}
            for role, one in run.teachers.items()
        },
        "cells": provenance,
        "figures": {
            name: _figure(left[column.of], column, f"{study.name}: columns.{name}")
            for name, column in study.page.columns.items()
            # An option that a row's method does not have leaves its place in the table empty.
            if column.of in left and (column.of != "recipe" or column.at in dict(leaves(left["recipe"])))
        },
    }


def _training(run: Trained) -> dict[str, Any]:
    """Return what a run cost, alone and with everybody who taught it, and its size."""
    records = Run(run.folder).metrics()
    minutes = sum(record["processor_seconds"] for record in records) / 60
    return {
        "parameters": Run(run.folder).description()["parameters"],
        "epochs": len(records),
        "minutes": sum(record["seconds"] for record in records) / 60,
        "processor_minutes": minutes,
        "processor_minutes_with_teachers": minutes + sum(_minutes(one) for one in _ancestors(run)),
        "student_forward": sum(record["passes"]["student"]["forward"] for record in records),
        "hardware": records[-1]["hardware"],
        "precision": records[-1]["precision"],
        "versions": Run(run.folder).description()["versions"],
    }


def _ancestors(run: Trained) -> list[Trained]:
    """Return everybody who taught a run, or taught them; each once."""
    found = {}
    for teacher in run.teachers.values():
        found |= {one.folder: one for one in [teacher, *_ancestors(teacher)]}
    return list(found.values())


def _minutes(run: Trained) -> float:
    return sum(float(record["processor_seconds"]) for record in Run(run.folder).metrics()) / 60


def _provenance(cell: Cell, left: dict[str, Any]) -> dict[str, Any]:
    record = record_of(cell)
    wall = record["wall_seconds"]
    return {
        "command": _command(cell),
        "commits": record["commits"],
        "minutes": left["minutes"] if not cell.exam else None if wall is None else wall / 60,
        "hardware": left.get("hardware"),
        "versions": left.get("versions"),
        "examples": (left.get("data") or {}).get("examples") if cell.exam else None,
    }


def _command(cell: Cell) -> str:
    return " ".join(["overproof", *(_quoted(word) for word in cell.words)])


def _quoted(word: str) -> str:
    return f"'{word}'" if any(sign in word for sign in ' "[]{}') else word


def _figure(left: dict[str, Any], column: Column, where: str) -> dict[str, Any]:
    """Return a figure, with the interval over images that stands beside a share; raise ``InputError`` without one."""
    found: Any = left
    above: Any = None
    for part in column.at.split("."):
        above = found
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            raise InputError(f"{where}.at: {column.of} has no {column.at!r}")
    if isinstance(found, str):
        return {"value": found}
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise InputError(f"{where}.at: {column.at} of {column.of} is no number but {found!r}")
    interval = above.get("interval") if isinstance(above, dict) and column.at.endswith("share") else None
    return {"value": found, **({"interval": interval} if interval else {})}
