"""``train`` over a grid, a base recipe and axes of edits, or over rows of which some teach others.

One run folder per cell, each trained by a process of its own.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch

from overproof.bases import complete, read_whole
from overproof.commands.clean import is_finished
from overproof.commands.rows import UNFIT, in_order, read_rows, seeds_of
from overproof.data.sources import Source
from overproof.environment import pick_device
from overproof.errors import InputError, nearest
from overproof.models.architectures.architecture import Architecture
from overproof.models.cost import multiply_adds
from overproof.plain_yaml import read_yaml
from overproof.reading import is_file
from overproof.recipe import Recipe, differences, of_tree
from overproof.runs.folder import Run
from overproof.runs.steps import CommandStep, StepStarted, run_steps
from overproof.runs.workers import ONE_CORE, cores
from overproof.shipped import find_recipe
from overproof.wording import check_path_name

_KEYS = ("name", "base", "axes")
ROW_KEYS = ("name", "runs", "seeds", "page")
_MOST_CELLS = 10_000


@dataclass(frozen=True, kw_only=True)
class SweepCell:
    """One recipe of a sweep; ``name`` says its values, and is its folder's name.

    ``teachers`` are cells, by their roles; in ``recipe`` they are where they lie when nobody says where.
    """

    name: str
    recipe: Recipe
    teachers: Mapping[str, str] = field(default_factory=dict)

    def recipe_in(self, out: Path) -> Recipe:
        """Return the recipe with its teachers' cells below ``out``."""
        if not self.teachers:
            return self.recipe
        own = {role: str(out / name) for role, name in self.teachers.items()}
        return replace(self.recipe, teachers={**self.recipe.teachers, **own})


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The cells of a sweep's file: of a grid the last axis changes fastest; of rows teachers come first."""

    file: Path
    name: str
    cells: tuple[SweepCell, ...]

    @property
    def folder(self) -> Path:
        """Where its runs go when nobody says: ``runs/<its name>``."""
        return _folder(self.name)

    def cell(self, number: int) -> SweepCell:
        """Return a cell by its number from 0 on; raise ``InputError`` where there is none."""
        if not 0 <= number < len(self.cells):
            raise InputError(f"{self.file}: there is no cell {number}; its {len(self.cells)} are numbered from 0")
        return self.cells[number]


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """A cell's process has ended; ``problem`` is its last line where it failed, else empty."""

    number: int
    cell: SweepCell
    run: Run
    problem: str = ""


def read_sweep(file: Path, sets: Sequence[str] = (), *, trust_code: bool = False) -> Sweep | Recipe:
    """Read a sweep's file and validate every cell, or return the recipe that the file is. Raises ``InputError``.

    ``sets`` are edits of the base, or of every row's recipe; ``trust_code`` is that of ``recipe.read``.
    """
    text = read_yaml(file)
    if isinstance(text, dict) and "runs" in text:
        return _of_rows(file, text, sets, trust_code)
    if not isinstance(text, dict) or "axes" not in text:
        whole = complete(text, str(file), file)
        return of_tree(whole.tree, sets, where=whole.where, folder=file.parent, trust_code=trust_code)
    for key in text:
        if key not in _KEYS:
            raise InputError(f"{file}: unknown key {key!r} of a sweep{nearest(str(key), _KEYS)}")
    if not isinstance(text.get("base"), str):
        raise InputError(f"{file}: base names the recipe to start from, a file or a shipped one")
    base, name = _recipe_file(file, text["base"]), _name(file, text)
    axes, whole, places = _axes(file, text["axes"]), read_whole(base), (base.parent, file.parent)
    if (count := prod(map(len, axes.values()))) > _MOST_CELLS:
        raise InputError(f"{file}: {count:,} cells are more than the {_MOST_CELLS:,} of one sweep; split its axes")
    cells = []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        called = _shorten(chosen)
        try:
            edits = [_edit(path, value) for path, value in {**chosen, "name": f"{name}/{called}"}.items()]
            recipe = of_tree(whole.tree, sets, edits=edits, where=whole.where, folder=places, trust_code=trust_code)
        except InputError as problem:
            raise InputError(f"{file}: cell {called}: {problem}") from problem
        cells.append(SweepCell(name=called, recipe=recipe))
    twice = [called for called, times in Counter(cell.name for cell in cells).items() if times > 1]
    if twice:
        raise InputError(f"{file}: two cells are called {twice[0]}; their values must differ in more than punctuation")
    return Sweep(file=file, name=name, cells=tuple(cells))


def _of_rows(file: Path, text: Mapping[str, Any], sets: Sequence[str], trust_code: bool) -> Sweep:
    for key in text:
        if key not in ROW_KEYS:
            raise InputError(f"{file}: unknown key {key!r} of a sweep of runs{nearest(str(key), ROW_KEYS)}")
    name = _name(file, text)
    rows, seeds = read_rows(text, str(file))
    if (count := sum(len(seeds_of(rows, row, seeds)) for row in rows)) > _MOST_CELLS:
        raise InputError(f"{file}: {count:,} cells are more than the {_MOST_CELLS:,} of one sweep; split its runs")
    wholes = {}
    for row, one in rows.items():
        try:
            base = _recipe_file(file, one.recipe)
            wholes[row] = base, read_whole(base)
        except InputError as problem:
            raise InputError(f"{file}: runs.{row}.recipe: {problem}") from problem
    cells = []
    for (row, seed), taught in in_order(rows, seeds, str(file)).items():
        called, teachers = _at_seed(row, seed), {role: _at_seed(*place) for role, place in taught.items()}
        edits = {**rows[row].set, "seed": seed, "name": f"{name}/{called}"}
        edits |= {f"teachers.{role}": str(_folder(name) / teacher) for role, teacher in teachers.items()}
        base, whole = wholes[row]
        try:
            recipe = of_tree(
                whole.tree,
                sets,
                edits=[_edit(path, value) for path, value in edits.items()],
                where=whole.where,
                folder=(base.parent, file.parent),
                trust_code=trust_code,
            )
        except InputError as problem:
            raise InputError(f"{file}: runs.{row}: {problem}") from problem
        cells.append(SweepCell(name=called, recipe=recipe, teachers=teachers))
    return Sweep(file=file, name=name, cells=tuple(cells))


def _edit(path: str, value: Any) -> str:
    """Return an edit as ``--set`` has it; raise ``InputError`` for a value that is no JSON, such as a date."""
    try:
        return f"{path}={json.dumps(value)}"
    except (TypeError, ValueError) as problem:
        raise InputError(f"{path}: cannot use {value!r}: expected text, a number, a list or a mapping") from problem


def _at_seed(row: str, seed: int) -> str:
    return f"{row},seed={seed}"


def _folder(name: str) -> Path:
    return Path("runs") / name


def _name(file: Path, text: Mapping[str, Any]) -> str:
    name = str(text.get("name", file.stem))
    try:
        check_path_name(name)
    except ValueError as problem:
        raise InputError(f"{file}.name: {problem}") from problem
    return name


def _recipe_file(file: Path, word: str) -> Path:
    """Return the file of a recipe that a sweep names: one beside it, or what the word means elsewhere."""
    beside = file.parent / word
    return beside if is_file(beside) else find_recipe(word)


def sweeping(
    sweep: Sweep,
    out: Path,
    *,
    jobs: int | None = None,
    sets: Sequence[str] = (),
    resume: bool = False,
    device: str = "auto",
    keep_checkpoint: bool = False,
    trust_code: bool = False,
    deadline: float = float("inf"),
) -> Iterator[RunEnded]:
    """Train every cell in ``out/<its name>``, ``jobs`` at a time; yield as they end. Finished cells are kept.

    A cell waits for those that teach it, and is left out where one of them failed.

    ``jobs`` is ``fitting_jobs`` where nobody says. Raises ``InputError`` before the first cell where a folder is in the
    way, and after the last one where a cell failed. A caller that stops early stops the cells too, and so does
    ``deadline``, a time of ``time.monotonic``; their checkpoints remain. ``keep_checkpoint`` is that of ``train``.
    """
    _check(sweep, out, jobs, resume)
    jobs = fitting_jobs(sweep, device) if jobs is None else jobs
    words = [word for edit in sets for word in ("--set", edit)]
    wishes = {"--resume": resume, "--keep-checkpoint": keep_checkpoint, "--trust-code": trust_code}
    words += [word for word, wished in wishes.items() if wished]
    numbers, steps, failed = (
        {cell.name: number for number, cell in enumerate(sweep.cells)},
        list[CommandStep](),
        list[str](),
    )
    for number, cell in enumerate(sweep.cells):
        command = ("train", str(sweep.file), "--cell", str(number), "--out", str(out))
        needs = tuple(cell.teachers.values())
        steps.append(CommandStep(name=cell.name, words=command, done=partial(_is_done, out, cell), needs=needs))
    events = run_steps(
        steps,
        jobs=jobs,
        threads=max(1, cores() // jobs),
        options=lambda step, slot: ("--device", _place(device, slot), *words),
        deadline=deadline,
    )
    with closing(events):
        for event in events:
            if isinstance(event, StepStarted) or event.stopped:
                continue
            number = numbers[event.step.name]
            cell = sweep.cells[number]
            failed += [cell.name] if event.problem else []
            yield RunEnded(number=number, cell=cell, run=Run(out / cell.name), problem=event.problem)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(sweep.cells)} cells failed ({', '.join(failed)}); --resume tries them again"
        )


def _is_done(out: Path, cell: SweepCell) -> bool:
    return is_done(Run(out / cell.name), cell.recipe_in(out))


def fitting_jobs(sweep: Sweep, device: str = "auto") -> int:
    """Return how many cells are best trained at a time: one per GPU; on a CPU one per core where a core is enough.

    Up to ``ONE_CORE`` two cells with a thread each do more than one with two. Of a larger student a single cell is
    trained with all cores, which needs the memory of one.
    """
    if pick_device(device).type == "cuda":
        most = torch.cuda.device_count() if device == "auto" else 1
    else:
        tried = {(cell.recipe.data, cell.recipe.student, cell.recipe.training.batch) for cell in sweep.cells}
        most = cores() if all(_one_core_is_enough(*one) for one in tried) else 1
    return max(1, min(most, len(sweep.cells)))


def _one_core_is_enough(data: Source, student: Architecture, batch: int) -> bool:
    try:
        signature = data.open("train").signature
        with torch.device("meta"):
            return batch * multiply_adds(student.build(signature), signature) <= ONE_CORE
    except (InputError, NotImplementedError):  # the cell itself says what is wrong; what has no shapes is not counted
        return False


def is_done(run: Run, recipe: Recipe) -> bool:
    """Whether a run of this very recipe has reached its end."""
    return is_finished(run, recipe.training.epochs) and not differences(run.recipe(), recipe)


def _place(device: str, slot: int) -> str:
    """Return the device of a worker: they share several GPUs evenly where nobody says otherwise."""
    count = torch.cuda.device_count() if device == "auto" else 0
    return f"cuda:{slot % count}" if count > 1 else device


def _axes(file: Path, text: Any) -> Mapping[str, list[Any]]:
    if not isinstance(text, dict) or not text:
        raise InputError(f"{file}: axes map paths to lists of values, for example seed: [0, 1, 2]")
    for path, values in text.items():
        if path == "name":
            raise InputError(f"{file}: axes.name: cells are named after their values; leave it out")
        if not isinstance(values, list) or not values:
            raise InputError(f"{file}: axes.{path}: expected a list of values, got {values!r}")
    return {str(path): values for path, values in text.items()}


def _shorten(chosen: Mapping[str, Any]) -> str:
    """Return ``seed=0,steps=10``: the last word of each path, or all of it where two end alike."""
    ends = Counter(path.rpartition(".")[2] for path in chosen)
    words = []
    for path, value in chosen.items():
        end = path.rpartition(".")[2]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words.append(f"{path if ends[end] > 1 else end}={re.sub(UNFIT, '-', text).strip('-')}")
    return ",".join(words)[:200]


def _check(sweep: Sweep, out: Path, jobs: int | None, resume: bool) -> None:
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a sweep starts processes of its own; to train one cell with several, name it with --cell")
    begun = [out / cell.name for cell in sweep.cells if (out / cell.name).exists()]
    if begun and not resume:
        raise InputError(f"{begun[0]}: exists already; continue the sweep with --resume or choose another --out")
