"""``python -m benchmarks.speedrun mnist``: the least total time, teacher and student, to a small robust student.

Trains ``DATA/speedrun-teacher`` and ``DATA/speedrun-student`` from nothing (``--alone``: ``DATA/speedrun-alone``, a
student without a teacher), evaluates the student by ``standard`` on 1,000 test images, and adds one record a run to
``benchmarks/results/speedrun.json``. The clock is the trainings', with their validation: CPU minutes on a CPU,
wall minutes on a GPU.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from studies.record import commit

from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.environment import hardware, pick_device, versions
from overproof.files import write_atomically
from overproof.recipe import read
from overproof.runs.folder import Run
from overproof.shipped import find_recipe

RESULT = Path(__file__).parent / "results" / "speedrun.json"
EXAMPLES = 1000


def speedrun(
    data: str,
    seed: int,
    folder: Path,
    *,
    alone: bool = False,
    device: str = "auto",
    sets: tuple[str, ...] = (),
    attacks: str = "standard",
) -> dict[str, Any]:
    """Train teacher and student of one seed in ``folder``, evaluate the student, and return the record."""
    place = pick_device(device)
    runs: dict[str, Run] = {}
    roles = ("alone",) if alone else ("teacher", "student")
    for role in roles:
        edits = [*sets, f"seed={seed}"]
        edits += [f"teachers.robust={runs['teacher'].folder}"] if runs else []
        recipe = read(find_recipe(f"{data}/speedrun-{role}"), edits)
        runs[role] = train(recipe, folder / f"{role}-{seed}", device=device)
    clock = "seconds" if place.type == "cuda" else "processor_seconds"
    minutes = {role: sum(record[clock] for record in run.metrics()) / 60 for role, run in runs.items()}
    found = evaluate(runs[roles[-1]], attacks=(attacks,), examples=EXAMPLES, device=device, reliability=False)
    return {
        "data": data,
        "seed": seed,
        "clock": "wall" if clock == "seconds" else "processor",
        "minutes": sum(minutes.values()),
        "of": minutes,
        "parameters": {role: run.description()["parameters"] for role, run in runs.items()},
        "recipe_digests": {role: run.recipe().digest for role, run in runs.items()},
        "clean": {key: found["clean"][key] for key in ("share", "interval")},
        attacks: {key: found["worst"][key] for key in ("share", "interval")},
        "examples": found["data"]["examples"],
        "hardware": hardware(place),
        "versions": versions(),
        "commit": commit(),
    }


def add(record: dict[str, Any], file: Path = RESULT) -> None:
    """Add one record to the file, which is written whole or not at all."""
    before = json.loads(file.read_text()) if file.is_file() else []
    write_atomically(file, (json.dumps([*before, record], indent=1) + "\n").encode())


def main() -> None:
    """Run so many seeds; each leaves its record when it is through."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speedrun", description=main.__doc__)
    parser.add_argument("data", choices=("mnist", "cifar10"))
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--alone", action="store_true", help="a student without a teacher")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    for seed in range(options.seed, options.seed + options.runs):
        with tempfile.TemporaryDirectory() as folder:
            record = speedrun(options.data, seed, Path(folder), alone=options.alone, device=options.device)
        add(record)
        robust = 100 * record["standard"]["share"]
        print(f"seed {seed}: {record['minutes']:.2f} {record['clock']} minutes, standard {robust:.1f} %", flush=True)


if __name__ == "__main__":
    main()
