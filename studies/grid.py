"""A study: a sweep's file whose ``page`` says the claim, how runs are examined, and what the table shows; its cells.

``overproof train studies/NAME.yaml`` trains the same rows as a sweep like any other.
A run's folder is named after the digest of its whole recipe, its teachers' included. Two studies that ask for the same
run therefore mean the same folder, and an edit of a recipe makes another one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from overproof.commands.rows import (
    Place,
    SweepRow,
    check_known,
    check_type,
    in_order,
    read_mapping,
    read_record,
    read_rows,
    seeds_of,
)
from overproof.commands.sweep import ROW_KEYS, is_done
from overproof.errors import InputError, nearest
from overproof.plain_yaml import read_yaml
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
class Page:
    """What the file of a sweep says of its page.

    ``exams`` are the commands that every run goes through; ``examined`` names rows that go through some of them only.
    ``labels`` are what the table calls a row, ``reduced`` how it is smaller than what the claim is about, ``reading``
    what we read in the figures.
    """

    title: str
    claim: str
    source: str
    budget_minutes: float
    exams: dict[str, dict[str, Any]]
    columns: dict[str, Column]
    examined: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    figure: Figure | None = None
    reduced: str = ""
    reading: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A sweep of rows and its page."""

    name: str
    runs: dict[str, SweepRow]
    seeds: list[int]
    page: Page

    def seeds_of(self, name: str) -> list[int]:
        """Return a row's seeds."""
        return seeds_of(self.runs, name, self.seeds)

    def exams_of(self, name: str) -> list[str]:
        """Return a row's exams, in the file's order."""
        own = self.page.examined.get(name, self.page.exams)
        return [exam for exam in self.page.exams if exam in own]


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
    tree = read_mapping(read_yaml(file), str(file))
    for key in tree:
        if key not in ROW_KEYS:
            raise InputError(f"{file}: unknown key {key!r} of a study{nearest(key, ROW_KEYS)}")
    rows, seeds = read_rows(tree, str(file))
    for row in rows.values():
        find_recipe(row.recipe)
    page = _page(read_mapping(tree.get("page"), f"{file}: page"), f"{file}: page", rows)
    return Study(name=file.stem, runs=rows, seeds=seeds, page=page)


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
    options, run = dict(study.page.exams[name]), runs[row, seed]
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
    own = study.runs[row]
    edits = [f"{path}={json.dumps(value)}" for path, value in own.set.items()] + [f"seed={seed}"]
    file = find_recipe(own.recipe)
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
    words = ("train", own.recipe, *sets, "--out", str(root / name), "--resume")
    return Trained(row=row, seed=seed, folder=root / name, recipe=recipe, words=words, teachers=teachers)


def _page(tree: dict[str, Any], where: str, rows: Mapping[str, SweepRow]) -> Page:
    exams = {
        name: _exam(one, f"{where}.exams.{name}", rows)
        for name, one in read_mapping(tree.get("exams", {}), f"{where}.exams").items()
    }
    columns = {
        name: _column(one, f"{where}.columns.{name}", exams)
        for name, one in read_mapping(tree.get("columns"), f"{where}.columns").items()
    }
    drawn = tree.get("figure")
    figure = None if drawn is None else read_record(drawn, f"{where}.figure", Figure)
    page = read_record({**tree, "exams": exams, "columns": columns, "figure": figure}, where, Page)
    _check(page, where, rows)
    return page


def _exam(text: Any, where: str, runs: Mapping[str, SweepRow]) -> dict[str, Any]:
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


def _check(page: Page, where: str, rows: Mapping[str, SweepRow]) -> None:
    if not isinstance(page.budget_minutes, int | float) or page.budget_minutes <= 0:
        raise InputError(f"{where}.budget_minutes is a number of minutes above 0, got {page.budget_minutes!r}")
    for key in ("title", "claim", "source", "reduced", "reading"):
        if not isinstance(getattr(page, key), str):
            raise InputError(f"{where}.{key} is a text, got {getattr(page, key)!r}")
    for row, label in read_mapping(page.labels, f"{where}.labels").items():
        check_known(row, rows, f"{where}.labels", "run")
        check_type(label, str, f"{where}.labels.{row}")
    for row, exams in read_mapping(page.examined, f"{where}.examined").items():
        check_known(row, rows, f"{where}.examined", "run")
        check_type(exams, list, f"{where}.examined.{row}")
        for exam in exams:
            check_known(exam, page.exams, f"{where}.examined.{row}", "exam")
    for name, exam in page.exams.items():
        if "file" in exam:
            check_known(exam["file"], page.exams, f"{where}.exams.{name}.file", "exam")
            if page.exams[exam["file"]]["verb"] != "export":
                raise InputError(f"{where}.exams.{name}.file: {exam['file']} is not an export")
    for column in _drawn(page):
        check_known(column, page.columns, f"{where}.figure", "column")


def _drawn(page: Page) -> Iterator[str]:
    if page.figure:
        yield page.figure.x
        yield from page.figure.y
