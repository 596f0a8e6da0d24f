"""``python -m studies NAME``: run a study, or continue it; its figures go to ``docs/results/studies/NAME.json``."""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NoReturn

from overproof.errors import InputError
from overproof.files import make_folder
from overproof.runs.steps import CommandStep, StepEnded, StepStarted, run_steps
from studies.grid import RUNS, Cell, cells, find_study, study_names
from studies.record import Record
from studies.result import RESULTS, left_to_do, result_file, write_result

KEPT = Path(__file__).parent / "kept"
"""Finished runs that are too long to repeat on every machine, by their folders' names."""
MORE = 75
"""The exit status where the time ran out and there is more to do (EX_TEMPFAIL)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the words of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"a study or its file: {', '.join(study_names())}")
    parser.add_argument("--list", action="store_true", help="say what there is, and what is done, and stop")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="stop after so long; the next call continues")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"where the runs lie; default {RUNS}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args(words)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _stop)
    try:
        if options.name is None:
            for name in study_names():
                study = find_study(name)
                found = cells(study, options.runs)
                done = len(found) - _left(left_to_do(study, found, options.results))
                planned = f"planned {study.page.budget_minutes:g} minutes"
                print(f"{name}: {study.page.title}; {done} of {len(found)} done, {planned}")
            return 0
        study = find_study(options.name)
        found = cells(study, options.runs)
        waiting = left_to_do(study, found, options.results)
        if options.list:
            for cell in found:
                state = "to do" if cell in waiting and not cell.done else "done"
                print(f"{state:5}  {cell.title}: overproof {' '.join(cell.words)}")
            print(f"{len(found) - _left(waiting)} of {len(found)} done")
            return 0
        bring_kept(waiting)
        events = run_steps(
            steps(waiting, options.runs),
            options=lambda step, slot: () if step.words[0] == "export" else ("--device", options.device),
            deadline=float("inf") if options.until is None else started + 60 * options.until,
        )
        with closing(events):
            failed = follow(events, waiting, after=lambda: write_result(study, options.runs, options.results))
        write_result(study, options.runs, options.results)
    except InputError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done is kept, the same command continues", file=sys.stderr)
        return 130
    print(f"{len(found) - _left(waiting)} of {len(found)} done; figures: {result_file(study, options.results)}")
    if failed:
        return 1
    return MORE if _left(waiting) else 0


def bring_kept(waiting: Sequence[Cell], kept: Path = KEPT) -> None:
    """Copy the runs that are kept beside the studies to where they would be trained; the name says the whole recipe."""
    for cell in waiting:
        if not cell.exam and not cell.folder.exists() and (kept / cell.folder.name).is_dir():
            shutil.copytree(kept / cell.folder.name, cell.folder)


def steps(waiting: Sequence[Cell], root: Path) -> list[CommandStep]:
    """Return a step for each cell; runners of other studies that share a run wait for it."""
    return [
        CommandStep(
            name=str(cell.folder),
            words=cell.words,
            done=partial(_done, cell),
            needs=tuple(map(str, cell.needs)),
            lock=root / ".locks" / f"{cell.run.folder.name}-{cell.folder.name}",
        )
        for cell in waiting
    ]


def follow(
    events: Iterable[StepStarted | StepEnded], waiting: Sequence[Cell], after: Callable[[], object]
) -> list[Cell]:
    """Print a line for every cell, record its time, and call ``after`` when it is done; return those that failed."""
    by_name, records, failed = {str(cell.folder): cell for cell in waiting}, dict[str, Record](), list[Cell]()
    try:
        for event in events:
            name = event.step.name
            cell = by_name[name]
            if isinstance(event, StepStarted):
                number = len(waiting) - _left(waiting) + 1
                print(f"[{number}/{len(waiting)}] {cell.title} ({cell.folder})", flush=True)
                records[name] = Record(cell)
                if cell.exam:
                    make_folder(cell.folder)
                continue
            if event.ran:
                record = records.pop(name)
                record.keep()
            if event.problem:
                failed.append(cell)
                print(f"failed: {cell.title}: {event.problem}", flush=True)
            elif event.ran and not event.stopped:
                print(f"done in {record.minutes:.1f} minutes", flush=True)
                after()
    finally:
        for record in records.values():
            record.keep()
    return failed


def _done(cell: Cell) -> bool:
    return cell.done


def _left(waiting: Sequence[Cell]) -> int:
    return sum(not cell.done for cell in waiting)


def _stop(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
