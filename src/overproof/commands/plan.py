"""``train --plan``: what a recipe or a sweep will take, and the recipe that fits into a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from overproof.allocation import keep_freed_memory
from overproof.attacks.pgd import PGD
from overproof.commands.sweep import Sweep
from overproof.environment import pick_device
from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.models.precision import tensor_float
from overproof.models.weights import save_model
from overproof.processes import ALONE
from overproof.recipe import Recipe, dump
from overproof.runs.plan import Plan, measure
from overproof.runs.trainer import Stage, set_up
from overproof.training.optimisation import Multistep

SECONDS = 20.0
_Choice = tuple[Recipe, Plan, tuple[str, ...]]
"""A recipe that may be chosen, its plan, and what was changed."""
_UNITS = {"h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_GROWING = 0.5  # the share of a run over which a search grows to its steps where a budget asks for it
_MARGIN = 0.95  # of a budget, as a measurement of seconds is not exact


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell's plan; ``measured`` is False where a cell before it differs in its seed alone."""

    name: str
    plan: Plan
    measured: bool = True


def plan_recipe(
    recipe: Recipe,
    *,
    seconds: float = SECONDS,
    device: str = "auto",
    beside: Path | None = None,
    trust_code: bool = False,
) -> Plan:
    """Measure what a recipe will take, for about so many seconds; nothing is written. Raises ``InputError``."""
    return _measured(recipe, seconds, device, beside, trust_code)[0]


def plan_sweep(
    sweep: Sweep, *, seconds: float = SECONDS, device: str = "auto", trust_code: bool = False
) -> Iterator[PlannedCell]:
    """Yield the plan of every cell, in order; cells that differ in their seed alone are measured once.

    Students are measured with teachers of the right size that have learnt nothing. Nothing is written that stays.
    """
    plans: dict[str, Plan] = {}
    stand_ins: dict[str, Path] = {}
    questions: dict[str, str] = {}  # of each cell: what is asked, whatever its seed
    with TemporaryDirectory() as folder:
        for cell in sweep.cells:
            taught = {role: questions[name] for role, name in cell.teachers.items()}
            unnamed = {**cell.recipe.teachers, **dict.fromkeys(taught, "a cell")}
            same = replace(cell.recipe, seed=0, name="cell", teachers=unnamed)
            question = f"{dump(same)}{sorted(taught.items())}"
            questions[cell.name] = question
            if measured := question not in plans:
                teachers = {role: str(stand_ins[one]) for role, one in taught.items()}
                recipe = replace(cell.recipe, teachers={**cell.recipe.teachers, **teachers})
                plans[question], stage = _measured(recipe, seconds, device, sweep.file.parent, trust_code)
                stand_ins[question] = Path(folder) / str(len(plans))
                _save_stand_in(stand_ins[question], recipe, stage)
            yield PlannedCell(name=cell.name, plan=plans[question], measured=measured)


def read_budget(text: str) -> float:
    """Return the seconds of ``6h``, ``90m``, ``45s`` or ``1h30m``; raise ``InputError``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|min|m|s)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise InputError(f"--budget {text}: write a time such as 6h, 90m, 45s or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds > 0:
        raise InputError(f"--budget {text}: nothing can be trained in no time")
    return seconds


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The recipe that fits into a time, its plan, and in words what of the recipe was changed."""

    recipe: Recipe
    plan: Plan
    changes: tuple[str, ...]


def fit_budget(
    recipe: Recipe,
    budget: float,
    *,
    seconds: float = SECONDS,
    device: str = "auto",
    beside: Path | None = None,
    trust_code: bool = False,
) -> Fitted:
    """Return the recipe that ends within ``budget`` seconds, changed as little as possible.

    Tried in this order: as it is; with the teachers' answers kept, where images are shown again as they were; with
    searches that grow over half of the run; with both. The first that fits with all its epochs is taken; where none
    does, the last with fewer. Raises ``InputError`` where not one epoch fits.
    """
    limit = _MARGIN * budget
    plan = plan_recipe(recipe, seconds=seconds, device=device, beside=beside, trust_code=trust_code)
    tried: list[_Choice] = [(recipe, plan, ())]
    if (cached := _with_cache(recipe)) is not None and not plan.seconds <= limit:
        kept = plan_recipe(cached, seconds=seconds, device=device, beside=beside, trust_code=trust_code)
        if kept.seconds < plan.seconds:
            tried.append((cached, kept, ("training.teacher_cache: true",)))
    if not any(one.seconds <= limit for _, one, _ in tried):
        tried += [
            (one, known.at(one), (*changes, f"searches grow over {_GROWING:g} of the run"))
            for one, known, changes in ((_growing(each), known, changes) for each, known, changes in tried)
            if one is not None
        ]
    for chosen, known, changes in tried:
        if known.seconds <= limit:
            return Fitted(recipe=chosen, plan=known, changes=changes)
    chosen, known, changes = min(tried, key=lambda one: one[1].seconds)
    epochs = _most_epochs(chosen, known, limit)
    if not epochs:
        least = known.at(_shortened(chosen, 1)).seconds
        raise InputError(
            f"recipe {recipe.name}: one epoch takes {format_seconds(least)} here, and the budget is "
            f"{format_seconds(budget)}; use a larger budget, a smaller student or fewer images"
        )
    shorter = _shortened(chosen, epochs)
    changes += (f"training.epochs: {recipe.training.epochs} -> {epochs}",)
    return Fitted(recipe=shorter, plan=known.at(shorter), changes=changes)


def write_fitted(recipe: Recipe, file: Path) -> None:
    """Write a recipe to a file that is not there yet; raise ``InputError`` where another one is."""
    text = dump(recipe)
    if file.exists() and file.read_text() != text:
        raise InputError(f"{file}: exists already and is another recipe; choose another --out")
    write_atomically(file, text.encode())


def format_seconds(seconds: float) -> str:
    """Return a time in the unit in which it is read best."""
    for name, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


def _measured(recipe: Recipe, seconds: float, device: str, beside: Path | None, trust_code: bool) -> tuple[Plan, Stage]:
    keep_freed_memory()
    with tensor_float(recipe.performance.tf32):
        stages = set_up(recipe, pick_device(device), ALONE, False, beside, trust_code=trust_code)
        while True:
            try:
                next(stages)
            except StopIteration as end:
                stage: Stage = end.value
                return measure(recipe, stage, seconds), stage


def _save_stand_in(folder: Path, recipe: Recipe, stage: Stage) -> None:
    """Save a network of the right size as a run that teaches."""
    make_folder(folder)
    facts = {"name": recipe.name, "selected_on": "nothing: it stands in for a teacher"}
    save_model(folder, stage.loop.network(), stage.architecture, stage.classes, facts=facts)
    write_atomically(folder / "recipe.yaml", dump(recipe).encode())


def _with_cache(recipe: Recipe) -> Recipe | None:
    """Return the recipe with kept answers of its teachers; None where it has none, or images that never come again."""
    if not recipe.teachers or recipe.training.teacher_cache or not recipe.augment.draws or recipe.augment.mixes:
        return None
    if getattr(recipe.data, "extra", None) is not None:
        return None
    return replace(recipe, training=replace(recipe.training, teacher_cache=True))


def _growing(recipe: Recipe) -> Recipe | None:
    """Return the recipe with searches that grow; None where it has none that do not yet."""
    method = _with_growing(recipe.method)
    return None if method == recipe.method else replace(recipe, method=method)


def _with_growing(value: Any) -> Any:
    """Return a dataclass with every search of three steps or more growing, in it or below it."""
    if isinstance(value, PGD):
        return replace(value, steps_ramp=_GROWING) if value.steps > 2 and not value.steps_ramp else value
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for one in fields(value):
        if one.init and (new := _with_growing(old := getattr(value, one.name))) is not old:
            changed[one.name] = new
    return replace(value, **changed) if changed else value


def _most_epochs(recipe: Recipe, plan: Plan, limit: float) -> int:
    """Return the largest number of epochs below the recipe's that ends within the limit; 0 where none does."""
    few, many = 0, recipe.training.epochs
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if plan.at(_shortened(recipe, middle)).seconds <= limit else (few, middle)
    return few


def _shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with fewer epochs; what it counts in epochs keeps its place in the run."""
    before = recipe.training
    schedule, share = before.schedule, epochs / before.epochs
    if isinstance(schedule, Multistep):
        schedule = replace(schedule, milestones=tuple(share * one for one in schedule.milestones))
    training = replace(before, epochs=epochs, schedule=schedule, warmup=share * before.warmup)
    return replace(recipe, training=training)
