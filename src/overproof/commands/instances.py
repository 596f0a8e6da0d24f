"""``certify --instances``: decides every query of an ``instances.csv``, several at a time; one line of results each.

The form is that of VNN-COMP (network, query, seconds; no header), or a table with a header that names these columns and
a ``benchmark``. ``results.csv`` grows by a line as each instance ends; ``results.json`` says what was asked.
"""

import csv
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from math import isfinite
from pathlib import Path
from re import findall, fullmatch
from select import select
from time import monotonic
from typing import IO, Any

import torch

from overproof.certification.cascade import BoundPrecision
from overproof.commands.decide import decide_named, witness_name
from overproof.commands.options import Decision
from overproof.environment import hardware, versions
from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.locking import exclusive
from overproof.reading import exists, is_file, parsing, read_bytes, read_object, read_text
from overproof.runs.workers import Task, Worker, cores
from overproof.wording import one_line

SCHEMA = 1
RESULTS, ASKED = "results.csv", "results.json"
COLUMNS = ("network", "query", "timeout", "result", "seconds")
_MOST_TEXT = 1 << 26  # bytes of an instances file
_GRACE = 60.0
"""Seconds beyond an instance's own after which its process is ended."""
_WORDS = {
    "network": ("network", "onnx", "model"),
    "query": ("query", "vnnlib", "property", "spec"),
    "timeout": ("timeout", "timeout_s", "seconds", "time"),
    "benchmark": ("benchmark", "category"),
}
_WORK = f"{__name__}:decide_instance"
_NETWORK = r"\(\s*'([^']*)'\s*,\s*'([^']*)'\s*\)"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A line of the file: its cells as they stand, its files by the name of their network (or nothing), its seconds."""

    line: int
    cells: tuple[str, str, str]
    networks: Mapping[str, Path]
    query: Path
    seconds: float
    witness: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An instance has ended: the result, its seconds, and what is to be said of it."""

    instance: Instance
    result: str
    seconds: float
    notes: tuple[str, ...] = ()
    done: int
    total: int


def read_instances(file: Path) -> tuple[Instance, ...]:
    """Return the instances of a file; raise ``InputError`` for another form, and for files that are not there.

    A network and a query are looked for beside the file, in the folder of their ``benchmark``, in ``onnx`` and
    ``vnnlib`` beside it and in ``../onnx``; where only a ``.gz`` of one is there, that is meant.
    """
    text = read_text(file, limit=_MOST_TEXT)
    with parsing(file, "a table of instances"):
        rows = [(number, row) for number, row in enumerate(csv.reader(StringIO(text)), 1) if any(map(str.strip, row))]
    columns = _columns(rows[0][1]) if rows else None
    instances, missing, names = list[Instance](), list[str](), dict[str, int]()
    for number, row in rows[1:] if columns else rows:
        cells = [cell.strip() for cell in row]
        named = columns or {"network": 0, "query": 1, "timeout": 2}
        if len(cells) <= max(named.values()) or (not columns and len(cells) != len(named)):
            raise InputError(f"{file}: line {number}: expected a network, a query and seconds, got {_describe(row)}")
        network, query, timeout = (cells[named[name]] for name in ("network", "query", "timeout"))
        benchmark = cells[named["benchmark"]] if "benchmark" in named else ""
        seconds = _seconds(timeout)
        if seconds is None:
            raise InputError(f"{file}: line {number}: {_describe([timeout])} are no seconds above 0")
        paths: dict[str, Path] = {}
        for name, word in _networks(network).items():
            paths[name] = _find(file.parent, word, (benchmark, "onnx", "../onnx"), missing)
        place = _find(file.parent, query, (benchmark, "vnnlib"), missing)
        witness = witness_name(list(paths.values()), place)
        names[witness] = names.get(witness, 0) + 1
        instances.append(
            Instance(
                line=number,
                cells=(network, query, timeout),
                networks=paths,
                query=place,
                seconds=seconds,
                witness=witness if names[witness] == 1 else f"{witness}-{names[witness]}",
            )
        )
    if not instances:
        raise InputError(f"{file}: it has no instances")
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{file}: there is no {one_line(missing[0], 300)}{more}")
    return tuple(instances)


def iter_decide(
    file: Path,
    out: Path,
    *,
    jobs: int = 1,
    seconds: float | None = None,
    seed: int = 0,
    precision: BoundPrecision = "float64",
    resume: bool = False,
    overwrite: bool = False,
) -> Generator[Ended, None, None]:
    """Decide every instance, ``jobs`` at a time, each in at most its own seconds and ``seconds``; yield as they end.

    Results are ``sat``, ``unsat``, ``unknown``, and ``error`` for one that could not be read or whose process ended.
    With ``resume`` those that are in ``results.csv`` are left out, but for errors. Raises ``InputError`` before the
    first where something is wrong with the file, with what is there, or with an option.
    """
    if jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    Decision(seconds=60.0 if seconds is None else seconds, precision=precision)  # which says what is wrong with them
    instances = read_instances(file)
    digest = sha256(read_bytes(file)).hexdigest()
    asked = {"schema": SCHEMA, "instances": str(file), "sha256": digest}
    how: dict[str, Any] = {"seconds": seconds, "seed": seed, "precision": precision}
    asked |= how
    done = _earlier(out, asked, instances, overwrite=overwrite) if resume else _nothing(out, overwrite=overwrite)
    with exclusive(out, "decide"):
        make_folder(out)
        facts = {**asked, "jobs": jobs, "versions": versions(), "hardware": hardware(torch.device("cpu"))}
        write_atomically(out / ASKED, (json.dumps(facts, indent=1) + "\n").encode())
        write_atomically(out / RESULTS, _lines([COLUMNS, *done]).encode())
        waiting = _remaining(instances, done)
        count = len(instances) - len(waiting)
        with closing(_perform(waiting, jobs, out, **how)) as outcomes:
            for instance, result, took, notes in outcomes:
                count += 1
                with (out / RESULTS).open("a", newline="") as table:
                    table.write(_lines([(*instance.cells, result, f"{took:.3f}")]))
                ended = Ended(
                    instance=instance, result=result, seconds=took, notes=notes, done=count, total=len(instances)
                )
                yield ended


def decide_instance(networks: dict[str, str], query: str, witness: str, **options: Any) -> dict[str, Any]:
    """Decide one instance, in a process that serves this function."""
    return decide_named(networks, query, witness, Decision(**options))


# --- reading ----------------------------------------------------------------------------------------------------------


def _columns(row: Sequence[str]) -> dict[str, int] | None:
    """Return where the columns of a header are; None for a row that is none."""
    words = [cell.strip().lower() for cell in row]
    columns = {name: words.index(word) for name, known in _WORDS.items() for word in known if word in words}
    return columns if {"network", "query", "timeout"} <= set(columns) else None


def _networks(cell: str) -> dict[str, str]:
    """Return a network's file by no name; or those of a list of names and files (``vnnlib.pair_of_files``)."""
    if fullmatch(rf"\[\s*{_NETWORK}(\s*,\s*{_NETWORK})*\s*\]", cell):
        return dict(findall(_NETWORK, cell))
    return {"": cell}


def _find(home: Path, word: str, folders: Sequence[str], missing: list[str]) -> Path:
    """Return the file that a word means, or remember that there is none."""
    for folder in dict.fromkeys(("", *folders)):
        for ending in ("", ".gz"):
            if is_file(place := home / folder / f"{word}{ending}"):
                return place
    missing.append(str(home / word))
    return home / word


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds > 0 else None


def _describe(row: Sequence[str]) -> str:
    return one_line(repr(",".join(row)), 100)


# --- what is there ----------------------------------------------------------------------------------------------------


def _nothing(out: Path, *, overwrite: bool) -> list[tuple[str, ...]]:
    """Return no earlier results; raise ``InputError`` where there are some."""
    if exists(out / RESULTS) and not overwrite:
        raise InputError(f"{out / RESULTS}: exists already; --resume continues it, --overwrite begins again")
    return []


def _earlier(
    out: Path, asked: Mapping[str, Any], instances: Sequence[Instance], *, overwrite: bool
) -> list[tuple[str, ...]]:
    """Return the lines of an interrupted run of the same question, without errors; none where there is no run."""
    if overwrite:
        raise InputError("--resume continues what --overwrite would begin again; give one of them")
    if not exists(out / RESULTS):
        return []
    before = read_object(out / ASKED)
    for name in ("sha256", "seconds", "seed", "precision"):
        if before.get(name) != asked[name]:
            what = "other instances" if name == "sha256" else f"another --{name}"
            raise InputError(f"{out / RESULTS}: its results are of {what}; choose another --out, or --overwrite")
    text = read_text(out / RESULTS, limit=_MOST_TEXT)
    whole = text[: text.rfind("\n") + 1]  # a crash may leave half a line
    with parsing(out / RESULTS, "a table of results"):
        rows = [tuple(row) for row in csv.reader(StringIO(whole))]
    known = {instance.cells for instance in instances}
    if any(len(row) != len(COLUMNS) for row in rows) or rows[:1] != [COLUMNS]:
        raise InputError(f"{out / RESULTS}: it is no table of results")
    if any(row[:3] not in known for row in rows[1:]):
        raise InputError(f"{out / RESULTS}: its results are of other instances; choose another --out, or --overwrite")
    return [row for row in rows[1:] if row[3] != "error"]


def _remaining(instances: Sequence[Instance], done: Sequence[tuple[str, ...]]) -> list[Instance]:
    """Return the instances without a result; one that stands in the file twice needs two."""
    counts: dict[tuple[str, ...], int] = {}
    for row in done:
        counts[row[:3]] = counts.get(row[:3], 0) + 1
    left = []
    for instance in instances:
        if counts.get(instance.cells, 0):
            counts[instance.cells] -= 1
        else:
            left.append(instance)
    return left


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    worker: Worker
    instance: Instance
    since: float
    until: float


def _perform(
    instances: Sequence[Instance], jobs: int, out: Path, *, seconds: float | None, **options: Any
) -> Generator[tuple[Instance, str, float, tuple[str, ...]], None, None]:
    """Yield each instance with its result, its seconds and notes. A process that ends is one error, and replaced."""
    waiting, busy = list(instances)[::-1], dict[IO[str], _Job]()
    crew, idle = list[Worker](), list[Worker]()
    threads = max(1, cores() // jobs)
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                instance, now = waiting.pop(), monotonic()
                limit = instance.seconds if seconds is None else min(seconds, instance.seconds)
                words = {
                    "networks": {name: str(path) for name, path in instance.networks.items()},
                    "query": str(instance.query),
                    "witness": instance.witness,
                    "seconds": limit,
                    **options,
                    "out": str(out),
                }
                if not idle:
                    crew.append(Worker(_WORK, threads=threads))
                    idle.append(crew[-1])
                worker = idle.pop()
                job = _Job(worker, instance, now, now + limit + _GRACE)
                try:
                    busy[worker.asked(Task(name=instance.witness, words=words))] = job
                except InputError as problem:
                    yield instance, "error", monotonic() - now, (str(problem),)
            ready = select(list(busy), (), (), 1.0)[0] if busy else []
            for answers, job in list(busy.items()):
                if answers in ready or monotonic() > job.until:
                    del busy[answers]
                    heard = _heard(job, late=answers not in ready)
                    if job.worker.process.poll() is None:
                        idle.append(job.worker)
                    yield heard
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.close()


def _heard(job: _Job, *, late: bool) -> tuple[Instance, str, float, tuple[str, ...]]:
    try:
        if late:
            job.worker.process.kill()
            job.worker.process.wait()
            raise InputError("its time has been over for long, so its process was ended")
        answer = job.worker.answer()
    except InputError as problem:
        return job.instance, "error", monotonic() - job.since, (str(problem),)
    return job.instance, answer["result"], answer["seconds"], tuple(answer["notes"])
