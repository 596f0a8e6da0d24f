"""``python -m benchmarks.slopes``: how the cost of a step grows with what a user may change; writes slopes.json.

Each line is one PGD-10 ARD step of our loop with one thing changed over a range; the slope is that of log seconds over
log size, fitted by least squares: 1 is proportional, 0 is free. Runs of all sizes alternate, and the median counts.
"""

import json
import sys
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.steps import CIFAR, ard, loop
from overproof.environment import hardware, versions
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.resnet import ResNet
from overproof.signature import Signature

RESULT = Path(__file__).parent / "results" / "slopes.json"
AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128),
    "image side": (16, 32, 64),
    "classes": (10, 100, 1000),
    "steps": (5, 10, 20, 40),
    "width": (16, 32, 64),
}


def seconds(axis: str, rounds: int) -> list[float]:
    """Return the CPU seconds of a step at every size of an axis."""
    runs = [_step(axis, size) for size in AXES[axis]]
    for run in runs:
        next(run)
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for place, run in enumerate(runs):
            before = process_time()
            next(run)
            taken[place].append(process_time() - before)
    return [median(one) for one in taken]


def _step(axis: str, size: int) -> Any:
    chosen = {"batch": 32, "image side": 32, "classes": 10, "steps": 10, "width": 16} | {axis: size}
    side, width = chosen["image side"], chosen["width"]
    like = Signature(channels=3, height=side, width=side, classes=chosen["classes"])
    wide = ConvNet(channels=(width, 2 * width), hidden=(64,))
    network = wide if axis == "width" else ResNet(depth=20)
    return loop(ard(chosen["steps"]), network, chosen["batch"], "fp32", like=like).run()


def slope(sizes: tuple[int, ...], times: list[float]) -> float:
    """Return the slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main() -> None:
    """Measure every axis, and write after each."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    results: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "rounds": rounds}
    results |= {"network": "resnet20, and a convnet of two layers for width", "base": str(CIFAR), "axes": {}}
    for axis, sizes in AXES.items():
        times = seconds(axis, rounds)
        found = {"sizes": sizes, "processor_seconds": times, "slope": slope(sizes, times)}
        results["axes"][axis] = found
        print(f"{axis:<11} {dict(zip(sizes, [round(t, 3) for t in times], strict=True))}  slope {found['slope']:.2f}")
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
