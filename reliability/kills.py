"""Kills at random moments, and what is left: the same files, to the bit, after as many resumptions.

    python -m reliability.kills [--kills 100] [--seed 0] [--signal KILL]

Every command of a small run is stopped again and again at a moment drawn from the time it takes undisturbed, and
resumed, five times in a row; then it may finish, and its files are compared with those of an undisturbed run.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from reliability.stages import STAGES, Stage, contents, forked, left_over, waited, warm

_IN_A_ROW = 5


@dataclass
class Tally:
    """What came of the kills of one stage."""

    kills: int = 0
    finished: int = 0
    exact: int = 0
    late: int = 0  # it had finished before the kill came
    wrong: list[str] = field(default_factory=list)


def survive(stage: Stage, before: Path, place: Path, kills: int, draw: Random, number: signal.Signals) -> Tally:
    """Kill a stage so many times, starting from copies of the folder ``before``; return what came of it."""
    tally, said = Tally(), place / "said"
    whole = place / "whole"
    shutil.copytree(before, whole)
    started = time.monotonic()
    _ended(forked(lambda: stage.work(whole), said), said, tally)
    seconds = time.monotonic() - started
    wanted = contents(whole, stage)
    folder = place / "killed"
    while tally.kills < kills:
        shutil.copytree(before, folder)
        for _ in range(min(_IN_A_ROW, kills - tally.kills)):
            process = forked(lambda: stage.work(folder), said)
            time.sleep(draw.uniform(0, seconds))
            os.kill(process, number)
            ended = waited(process)
            tally.kills += 1
            tally.late += ended == 0
            if ended not in (0, -number):
                tally.wrong.append(said.read_text()[-2000:])
        _ended(forked(lambda: stage.work(folder), said), said, tally)
        tally.finished += 1
        found = contents(folder, stage)
        tally.exact += found == wanted
        tally.wrong += [f"{name} differs" for name in wanted if found[name] != wanted[name]]
        tally.wrong += [f"left over: {name}" for name in left_over(folder)]
        shutil.rmtree(folder)
    return tally


def _ended(process: int, said: Path, tally: Tally) -> None:
    if waited(process) != 0:
        tally.wrong.append(said.read_text()[-2000:])


def shares(kills: int) -> Mapping[str, int]:
    """Return how many of the kills each stage gets; training, which takes longest, four tenths."""
    part = {"evaluate": kills * 3 // 10, "certify": kills * 2 // 10, "export": kills // 10}
    return {"train": kills - sum(part.values()), **part}


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="KILL")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    warm()
    number, draw = signal.Signals[f"SIG{wish.signal}"], Random(wish.seed)
    failed = False
    print("| command | kills | of them too late | resumed to the end | to the bit | wrong |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        before = Path(place) / "run"
        before.mkdir()
        for name, kills in shares(wish.kills).items():
            here = Path(place) / name
            here.mkdir()
            tally = survive(STAGES[name], before, here, kills, draw, number)
            before = here / "whole"
            row = name, tally.kills, tally.late, tally.finished, tally.exact, len(tally.wrong)
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            for line in tally.wrong:
                print(f"  {line}", file=sys.stderr)
            failed = failed or bool(tally.wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())
