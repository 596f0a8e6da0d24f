"""``python -m benchmarks.schedules``: what a search whose steps grow during training saves, and what it costs.

Digits, adversarial training and ARD with ten steps, 20 epochs, three seeds each; on all test images the attacks of
``quick``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.environment import hardware, versions
from overproof.recipe import parse
from overproof.runs.folder import Run
from overproof.shipped import find_recipe
from overproof.statistics import Spread

RESULT = Path(__file__).parent / "results" / "schedules.json"
RAMPS = (0.0, 0.5, 1.0)
SEEDS = (0, 1, 2)
EPOCHS = 20


def measured(name: str, folder: Path, ramp: float, seed: int, *edits: str) -> dict[str, Any]:
    """Train once and return cost and accuracies."""
    sets = [
        *edits,
        f"seed={seed}",
        "method.inner.steps=10",
        f"method.inner.steps_ramp={ramp}",
        f"training.epochs={EPOCHS}",
        f"selection.every={EPOCHS}",
    ]
    run = train(parse(find_recipe(name).read_text(), sets), folder / f"{name}-{ramp}-{seed}", device="cpu")
    found = evaluate(run, attacks=("quick",), examples=0, device="cpu", reliability=False)
    epochs = run.metrics()
    return {
        "processor_seconds": sum(record["processor_seconds"] for record in epochs),
        "student_forward": sum(record["passes"]["student"]["forward"] for record in epochs),
        "clean": found["clean"]["share"],
        "robust": found["worst"]["share"],
    }


def main() -> None:
    """Train, attack, write the file and print a table."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "runs": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        teacher: Run = train("digits/teacher", folder / "teacher", device="cpu")
        for name, edits in (("digits/at", ()), ("digits/ard", (f"teachers.robust={teacher.folder}",))):
            cells = results["runs"][name] = {
                # Seed by seed and not ramp by ramp, so that a machine whose speed drifts slows all alike.
                str(ramp): []
                for ramp in RAMPS
            }
            for seed in SEEDS:
                for ramp in RAMPS:
                    cells[str(ramp)].append(measured(name, folder, ramp, seed, *edits))
                    print(name, ramp, seed, cells[str(ramp)][-1], flush=True)
            for ramp, runs in cells.items():
                figures = {key: Spread.of([run[key] for run in runs]) for key in ("clean", "robust")}
                seconds = sum(run["processor_seconds"] for run in runs)
                share = seconds / sum(run["processor_seconds"] for run in cells["0.0"])
                print(f"{name}, steps_ramp {ramp}: {share:.2f} of the time, {figures}", flush=True)
            RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
