"""Rows of a sweep: recipes with edits and seeds, of which some teach others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from overproof.errors import InputError, nearest

_T = TypeVar("_T")
UNFIT = r"[^\w.+-]+"
"""What a folder's name does not hold."""
_DEEPEST = 20  # teachers of teachers


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """A recipe, its edits, the rows that teach it by role, and its seeds (None: those of the sweep)."""

    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)
    seeds: list[int] | None = None


Place = tuple[str, int]
"""A row at a seed."""


def read_row(text: Any, where: str) -> SweepRow:
    """Return a row of what a file says; raise ``InputError``."""
    row = read_record(text, where, SweepRow)
    for key, kind in (("recipe", str), ("set", dict), ("teachers", dict)):
        check_type(getattr(row, key), kind, f"{where}.{key}")
    check_seeds(row.seeds, where)
    return row


def read_rows(text: Mapping[str, Any], where: str) -> tuple[dict[str, SweepRow], list[int]]:
    """Return the rows and the seeds of a sweep's file, checked against each other; raise ``InputError``."""
    seeds = [0] if text.get("seeds") is None else text["seeds"]
    check_seeds(seeds, where)
    written = read_mapping(text.get("runs"), f"{where}: runs")
    rows = {row: read_row(one, f"{where}: runs.{row}") for row, one in written.items()}
    if not rows:
        raise InputError(f"{where}: runs: expected rows, each with the recipe that it trains")
    for row in rows:
        if re.search(UNFIT, row) or not row.strip("."):
            raise InputError(f"{where}: runs: {row!r} is no folder's name; use letters, digits and any of _ . + -")
        for key in sorted({"name", "seed"} & set(rows[row].set)):
            raise InputError(f"{where}: runs.{row}.set.{key}: cells are named after their row and seed; use seeds")
    check_teachers(rows, where)
    return rows, seeds


def check_teachers(rows: Mapping[str, SweepRow], where: str) -> None:
    """Raise ``InputError`` where a row is to be taught by one that is not there."""
    for name, row in rows.items():
        for role, teacher in row.teachers.items():
            check_known(teacher, rows, f"{where}: runs.{name}.teachers.{role}", "run")


def seeds_of(rows: Mapping[str, SweepRow], name: str, seeds: list[int]) -> list[int]:
    """Return a row's seeds, which are those of all where it says none."""
    own = rows[name].seeds
    return seeds if own is None else own


def in_order(rows: Mapping[str, SweepRow], seeds: list[int], where: str) -> dict[Place, dict[str, Place]]:
    """Return every row at every seed of its own, teachers before their students, with its teachers by role.

    A teacher of one seed teaches the students of all, one of several those of its seed. Raises ``InputError``.
    """
    teachers_of: dict[Place, dict[str, Place]] = {}

    def visit(name: str, seed: int, above: tuple[str, ...]) -> Place:
        if name in above:
            raise InputError(f"{where}: runs.{name} is taught by itself")
        if len(above) > _DEEPEST:
            raise InputError(f"{where}: runs.{above[0]} has more than {_DEEPEST} teachers in a row")
        if (name, seed) not in teachers_of:
            taught = {}
            for role, teacher in rows[name].teachers.items():
                own = seeds_of(rows, teacher, seeds)
                if seed not in own and len(own) > 1:
                    raise InputError(f"{where}: runs.{teacher} has no seed {seed} to teach runs.{name}")
                taught[role] = visit(teacher, seed if seed in own else own[0], (*above, name))
            teachers_of[name, seed] = taught
        return name, seed

    for seed in dict.fromkeys(seed for name in rows for seed in seeds_of(rows, name, seeds)):
        for name in rows:
            if seed in seeds_of(rows, name, seeds):
                visit(name, seed, ())
    return teachers_of


def read_mapping(text: Any, where: str) -> dict[str, Any]:
    """Return a mapping with its keys as text; raise ``InputError`` for anything else."""
    if not isinstance(text, dict):
        raise InputError(f"{where}: expected a mapping, got {text!r}")
    return {str(key): value for key, value in text.items()}


def read_record(text: Any, where: str, cls: type[_T]) -> _T:
    """Return a dataclass of a mapping's values, which are not looked at; raise ``InputError`` for its keys."""
    tree = read_mapping(text, where)
    known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    for name, one in known.items():
        if name not in tree and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{where}: key {name!r} is missing")
    return cls(**tree)


def check_type(value: Any, kind: type, where: str) -> None:
    """Raise ``InputError`` for a value of another type."""
    if not isinstance(value, kind):
        raise InputError(f"{where}: expected a {kind.__name__}, got {value!r}")


def check_known(word: Any, names: Sequence[str] | Mapping[str, Any], where: str, what: str) -> None:
    """Raise ``InputError`` for a word that is none of the names."""
    if not isinstance(word, str) or word not in names:
        raise InputError(f"{where}: there is no {what} {word!r}{nearest(str(word), names)}")


def check_seeds(seeds: Any, where: str) -> None:
    """Raise ``InputError`` for what is no list of different whole numbers; None is that nobody said any."""
    if seeds is None:
        return
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise InputError(f"{where}.seeds: expected a list of whole numbers, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where}.seeds: a seed is there twice, in {seeds}")
