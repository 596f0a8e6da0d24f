"""``python -m benchmarks.allocation``: what it is worth that a process keeps the memory its tensors give back.

A process cannot forget that it was told to, so each measurement is made in a fresh one, in turn; CPU seconds of
one thread.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import process_time

import torch

from benchmarks.attacks import ours
from benchmarks.bounds import MNIST, graph, region, told
from benchmarks.reference import images, network
from benchmarks.steps import CIFAR, ard, loop
from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.suites import Suite, standard
from overproof.bounds.crown import bound
from overproof.bounds.spec import margins
from overproof.environment import hardware, versions
from overproof.models.architectures.convnet import ConvNet
from overproof.signature import Signature

RESULT = Path(__file__).parent / "results" / "allocation.json"
ROUNDS = 5


def steps(name: str | ConvNet, like: Signature, count: int) -> Callable[[], object]:
    """Return a function that takes so many steps of PGD-10 ARD on 128 images each."""
    run = loop(ard(), name, 128, "fp32", steps=count, like=like).run()
    return lambda: next(run)


def attack(name: str) -> Callable[[], object]:
    """Return a function that attacks 128 images of the reference network, hardly any of which can be broken."""
    threat = Threat(eps=Radius("1/2550"))
    trials = tuple(trial for trial in standard(threat).attacks if trial.name == name)
    return partial(ours, network(), *images(128), Suite(name="one", attacks=trials))


def proof() -> Callable[[], object]:
    """Return a function that bounds 16 images' margins on the reference network by CROWN."""
    made, around, labels = graph("cnn_pgd", torch.float32), region(0.05, torch.float32), told("inputs")["labels"]
    return lambda: [bound(made, around, margins(labels, 10), "crown") for _ in range(10)]


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "PGD-10 ARD, convnet 8-16, batch 128": partial(steps, ConvNet(channels=(8, 16), hidden=(64,)), MNIST, 10),
    "PGD-10 ARD, convnet 16-32, batch 128": partial(steps, ConvNet(channels=(16, 32), hidden=(100,)), MNIST, 10),
    "PGD-10 ARD, ResNet-20, batch 128": partial(steps, "resnet20", CIFAR, 1),
    "APGD-CE, cnn_pgd, 128 images": partial(attack, "apgd-ce"),
    "APGD-T, cnn_pgd, 128 images": partial(attack, "apgd-t"),
    "FAB-T, cnn_pgd, 128 images": partial(attack, "fab-t"),
    "CROWN, cnn_pgd, 16 images": proof,
}


def measure(case: str, kept: bool) -> dict[str, float]:
    """Return CPU seconds and page faults of the case, after one warm-up, and peak MiB, all of this process."""
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    work = CASES[case]()
    work()
    faults, started = getrusage(RUSAGE_SELF).ru_minflt, process_time()
    work()
    seconds, used = process_time() - started, getrusage(RUSAGE_SELF)
    return {"seconds": seconds, "faults": used.ru_minflt - faults, "peak_mib": used.ru_maxrss // 1024}


def elsewhere(case: str, kept: bool) -> dict[str, float]:
    """Measure in a fresh process."""
    code = f"import json; from benchmarks.allocation import measure; print(json.dumps(measure({case!r}, {kept})))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def main() -> None:
    """Measure, print, and write the file after every case."""
    torch.set_num_threads(1)
    cases: dict[str, object] = {}
    found = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "cases": cases}
    for case in CASES:
        pairs = [(elsewhere(case, kept=True), elsewhere(case, kept=False)) for _ in range(ROUNDS)]
        ratios = sorted(kept["seconds"] / given["seconds"] for kept, given in pairs)
        faults, peaks = (
            [median(one[key] for one in side) for side in zip(*pairs, strict=True)] for key in ("faults", "peak_mib")
        )
        cases[case] = {
            "kept / given back": [median(ratios), ratios[0], ratios[-1]],
            "page faults": faults,
            "peak MiB": peaks,
        }
        print(case, json.dumps(cases[case]), flush=True)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
