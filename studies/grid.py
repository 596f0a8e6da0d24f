"""A study's file: its claim, its runs, how each is examined, what its table shows; and the cells that this makes.

A run's folder is named after the digest of its whole recipe, its teachers' included. Two studies that ask for the same
run therefore mean the same folder, and an edit of a recipe makes another one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from overproof.commands.rows import (
    Place,
    SweepRow,
    check_known,
    check_seeds,
    check_teachers,
    check_type,
    in_order,
    read_mapping,
    read_record,
    read_row,
    seeds_of,
)
from overproof.commands.sweep import is_done
from overproof.errors import InputError, nearest
from overproof.recipe import Recipe, identity, read
from overproof.runs.folder import Run
from overproof.shipped import find_recipe

FOLDER = Path(__file__).parent
RUNS = Path("runs") / "study"
VERBS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "evaluate": (
        ("evaluate",),
        ("attacks", "eps", "norm", "examples", "teacher", "file", "seed", "batch"),
        "evaluation.json",
    ),
    "certify": (
        ("certify",),
        ("teacher", "eps", "norm", "bound", "seconds", "gamma", "examples", "seed", "batch"),
        "certificate.json",
    ),
    "check": (("teacher", "check"), ("eps", "norm", "examples", "student", "seed"), "teacher.json"),
    "export": (("export",), ("to", "calibration", "opset"), "model.onnx.json"),
}
"""Each verb of an exam: the words of the command, its options, and the file that exists once it is through."""
FORMATS = ("percent", "number", "count")
OWN = ("training", "recipe")
"""What a column may show beside the exams."""


@dataclass(frozen=True, kw_only=True)
class Planned(SweepRow):
    """One row of a study: that of a sweep, with its exams (None: all) and what its table calls it."""

    exams: list[str] | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure of the table: the path ``at`` which it stands in what ``of`` (an exam, training, recipe) left."""

    of: str
    at: str
    form: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Which columns are drawn: ``x`` across, each of ``y`` up; ``lines`` joins the points of one column."""

    x: str
    y: list[str]
    lines: bool = False


@dataclass(frozen=True, kw_only=True)
class Study:
    """One claim, as its file says it."""

    name: str
    title: str
    claim: str
    source: str
    budget_minutes: float
    runs: dict[str, Planned]
    exams: dict[str, dict[str, Any]]
    columns: dict[str, Column]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    figure: Figure | None = None
    reduced: str = ""
    reading: str = ""

    def seeds_of(self, name: str) -> list[int]:
        """Return a row's seeds."""
        return seeds_of(self.runs, name, self.seeds)

    def exams_of(self, name: str) -> list[str]:
        """Return a row's exams, in the file's order."""
        own = self.runs[name].exams
        return list(self.exams) if own is None else [exam for exam in self.exams if exam in own]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A row at one seed: its folder, its whole recipe, and the command that trains it."""

    row: str
    seed: int
    folder: Path
    recipe: Recipe
    words: tuple[str, ...]
    teachers: dict[str, "Trained"]

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        return is_done(Run(self.folder), self.recipe)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One process: a training (``exam`` is empty) or an exam; ``folder`` is its own, ``needs`` come before."""

    run: Trained
    exam: str
    folder: Path
    words: tuple[str, ...]
    file: Path
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """Whether its process came to its end, as its files say."""
        return self.file.is_file() if self.exam else self.run.done

    @property
    def title(self) -> str:
        """Its name in what is printed."""
        return f"{self.run.row}, seed {self.run.seed}: {self.exam or 'training'}"


def study_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of the studies."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def find_study(name: str) -> Study:
    """Return a study by its name or its file; raise ``InputError``."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise InputError(f"there is no study {name!r}{nearest(name, study_names())}")
    return read_study(file)


def read_study(file: Path) -> Study:
    """Read a study's file and check everything in it that needs no run; raise ``InputError`` with one sentence."""
    try:
        text = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise InputError(f"{file}: not readable as YAML ({' '.join(str(problem).split())})") from problem
    tree = read_mapping(text, f"{file}")
    runs = {
        name: _planned(one, f"{file}: runs.{name}")
        for name, one in read_mapping(tree.get("runs"), f"{file}: runs").items()
    }
    exams = {
        name: _exam(one, f"{file}: exams.{name}", runs)
        for name, one in read_mapping(tree.get("exams", {}), f"{file}: exams").items()
    }
    columns = {
        name: _column(one, f"{file}: columns.{name}", exams)
        for name, one in read_mapping(tree.get("columns"), f"{file}: columns").items()
    }
    drawn = tree.get("figure")
    figure = None if drawn is None else read_record(drawn, f"{file}: figure", Figure)
    values = {**tree, "name": file.stem, "runs": runs, "exams": exams, "columns": columns, "figure": figure}
    study = read_record(values, f"{file}", Study)
    _check(study, file)
    return study


def trained(study: Study, root: Path = RUNS) -> dict[tuple[str, int], Trained]:
    """Return every run of a study by row and seed, teachers before their students; raise ``InputError``."""
    found: dict[Place, Trained] = {}
    for (row, seed), taught in in_order(study.runs, study.seeds, study.name).items():
        found[row, seed] = _trained(study, row, seed, {role: found[place] for role, place in taught.items()}, root)
    return found


def cells(study: Study, root: Path = RUNS) -> list[Cell]:
    """Return a study's processes in the order in which they run; what two rows share is there once."""
    runs = trained(study, root)
    found: dict[Path, Cell] = {}
    for (row, seed), run in runs.items():
        needs = tuple(teacher.folder for teacher in run.teachers.values())
        training = Cell(
            run=run, exam="", folder=run.folder, words=run.words, file=run.folder / "last.json", needs=needs
        )
        found.setdefault(run.folder, training)
        for name in study.exams_of(row):
            cell = examined(study, runs, row, seed, name)
            found.setdefault(cell.folder, cell)
    ordered: dict[Path, Cell] = {}

    def put(cell: Cell) -> None:
        for need in cell.needs:
            put(found[need])
        ordered.setdefault(cell.folder, cell)

    for cell in found.values():
        put(cell)
    return list(ordered.values())


def examined(study: Study, runs: Mapping[tuple[str, int], Trained], row: str, seed: int, name: str) -> Cell:
    """Return one exam of one run."""
    options, run = dict(study.exams[name]), runs[row, seed]
    root = str(run.folder.parent)
    verb = options.pop("verb")
    if str(options.get("eps")) == str(run.recipe.threat.eps):
        del options["eps"]  # the recipe's own: the same question as without it
    command, _, left = VERBS[verb]
    needs, target = [run.folder], str(run.folder)
    if "file" in options:
        exported = examined(study, runs, row, seed, options.pop("file"))
        needs.append(exported.folder)
        target = str(exported.file).removesuffix(".json")
        options["original"] = str(run.folder)
    for key in ("teacher", "student"):
        if key in options:
            other = options[key]
            seeds = study.seeds_of(other)
            options[key] = str(runs[other, seed if seed in seeds else seeds[0]].folder)
            needs.append(Path(options[key]))
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    # Named after what is asked, not after what a study calls it or where the runs lie.
    asked = " ".join([verb, target, *words]).replace(root, "")
    folder = run.folder / "exams" / f"{verb}-{sha256(asked.encode()).hexdigest()[:8]}"
    out = folder / left.removesuffix(".json") if verb == "export" else folder
    resume = ["--resume"] if verb in ("evaluate", "certify") else []
    return Cell(
        run=run,
        exam=name,
        folder=folder,
        words=(*command, target, *words, "--out", str(out), *resume),
        file=folder / left,
        needs=tuple(dict.fromkeys(needs)),
    )


def _trained(study: Study, row: str, seed: int, teachers: dict[str, Trained], root: Path) -> Trained:
    planned = study.runs[row]
    edits = [f"{path}={json.dumps(value)}" for path, value in planned.set.items()] + [f"seed={seed}"]
    file = find_recipe(planned.recipe)
    try:
        bare = read(
            file, [*edits, *(f"teachers.{role}={json.dumps(one.folder.name)}" for role, one in teachers.items())]
        )
        digest = sha256(identity(bare).encode()).hexdigest()[:8]
        name = f"{bare.name}-s{seed}-{digest}".replace("/", "-")
        edits += [f"teachers.{role}={json.dumps(str(one.folder))}" for role, one in teachers.items()]
        edits.append(f"name={json.dumps(name)}")
        recipe = read(file, edits)
    except InputError as problem:
        raise InputError(f"{study.name}: runs.{row}: {problem}") from problem
    if missing := set(recipe.teachers) - set(teachers):
        raise InputError(f"{study.name}: runs.{row}: say which run is the teacher {min(missing)!r}")
    sets = [word for edit in edits for word in ("--set", edit)]
    words = ("train", planned.recipe, *sets, "--out", str(root / name), "--resume")
    return Trained(row=row, seed=seed, folder=root / name, recipe=recipe, words=words, teachers=teachers)


def _planned(text: Any, where: str) -> Planned:
    planned = read_row(text, where, Planned)
    check_type(planned.label, str, f"{where}.label")
    find_recipe(planned.recipe)
    return planned


def _exam(text: Any, where: str, runs: Mapping[str, Planned]) -> dict[str, Any]:
    tree = read_mapping(text, where)
    verb = tree.get("verb")
    if verb not in VERBS:
        raise InputError(f"{where}.verb: there is no {verb!r}{nearest(str(verb), VERBS)}")
    for key in tree:
        if key not in ("verb", *VERBS[verb][1]):
            raise InputError(f"{where}: {verb} has no option {key!r}{nearest(key, VERBS[verb][1])}")
    for key in ("teacher", "student"):
        if key in tree:
            check_known(tree[key], runs, f"{where}.{key}", "run")
    return tree


def _column(text: Any, where: str, exams: Mapping[str, Any]) -> Column:
    tree = read_mapping(text, where)
    share = str(tree.get("at", "")).rpartition(".")[2] in ("share", "w_robust")
    tree = {"form": tree.pop("as", "percent" if share else "number"), **tree}
    column = read_record(tree, where, Column)
    check_known(column.of, (*OWN, *exams), f"{where}.of", "exam")
    check_known(column.form, FORMATS, f"{where}.as", "form")
    return column


def _check(study: Study, file: Path) -> None:
    check_seeds(study.seeds, str(file))
    if not isinstance(study.budget_minutes, int | float) or study.budget_minutes <= 0:
        raise InputError(f"{file}: budget_minutes is a number of minutes above 0, got {study.budget_minutes!r}")
    for key in ("title", "claim", "source", "reduced", "reading"):
        if not isinstance(getattr(study, key), str):
            raise InputError(f"{file}: {key} is a text, got {getattr(study, key)!r}")
    check_teachers(study.runs, str(file))
    for name, planned in study.runs.items():
        for exam in planned.exams or ():
            check_known(exam, study.exams, f"{file}: runs.{name}.exams", "exam")
    for name, exam in study.exams.items():
        if "file" in exam:
            check_known(exam["file"], study.exams, f"{file}: exams.{name}.file", "exam")
            if study.exams[exam["file"]]["verb"] != "export":
                raise InputError(f"{file}: exams.{name}.file: {exam['file']} is not an export")
    for column in _drawn(study):
        check_known(column, study.columns, f"{file}: figure", "column")


def _drawn(study: Study) -> Iterator[str]:
    if study.figure:
        yield study.figure.x
        yield from study.figure.y
