"""``python -m benchmarks.footprint``: peak memory of our evaluation and of pyautoattack's, and the cost of records.

Each side attacks 250 images of CIFAR's size with APGD-CE, 3 steps, in a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius
from overproof.attacks.suites import AttackSpec, Suite
from overproof.data.images import Batch
from overproof.environment import hardware, versions
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.engine import run_attacks
from overproof.models.architectures.catalogue import find_architecture
from overproof.models.weights import build
from overproof.signature import Signature

RESULTS = Path(__file__).parent / "results"
EXAMPLES, STEPS = 250, 3


def side(which: str, name: str) -> None:
    """Attack once and print the peak resident memory in MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(find_architecture(name), Signature(channels=3, height=32, width=32, classes=10)).eval()
    x = torch.rand(EXAMPLES, 3, 32, 32)
    with torch.no_grad():
        y = torch.cat([model(part) for part in torch.split(x, 50)]).argmax(dim=1)
    eps = Radius("1/2550")  # so small that hardly any image is broken, which is the larger case
    if which == "ours":
        trial = AttackSpec(name="apgd-ce", attack=APGD(eps=eps, steps=STEPS))
        for _ in run_attacks(
            prepare_subject(model), Batch(x, y), Suite(name="one", attacks=(trial,)), seed=0, number=0
        ):
            pass
    elif which == "theirs":
        from pyautoattack import AutoAttack

        attack = AutoAttack(model, norm="Linf", eps=float(eps), seed=0, version="standard")
        attack.verbose, attack.attacks_to_run, attack.apgd.n_iter = False, ["apgd-ce"], STEPS
        attack.run_standard_evaluation(x, y, batch_size=EXAMPLES)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def peaks(name: str) -> dict[str, int]:
    """Return the peak of each side, and of the process before any attack, in MiB."""
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.footprint", name]
    return {
        which: int(subprocess.run([*words, which], check=True, capture_output=True, text=True).stdout.split()[-1])
        for which in ("before", "ours", "theirs")
    }


def records() -> dict[str, float]:
    """Return the seconds of an evaluation and those of it that went into files."""
    from overproof.commands.evaluate import evaluate
    from overproof.commands.train import train
    from overproof.evaluation.store import Store
    from overproof.runs.folder import Run

    spent = [0.0]

    def timed(function: Any) -> Any:
        def run(*words: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **options)
            finally:
                spent[0] += time.perf_counter() - started

        return run

    with tempfile.TemporaryDirectory() as folder:
        run = train("digits/at", Path(folder) / "run")
        with (
            patch.object(Store, "save", timed(Store.save)),
            patch.object(Run, "write_lines", timed(Run.write_lines)),
            patch.object(Run, "write_json", timed(Run.write_json)),
        ):
            started = time.perf_counter()
            evaluate(run, attacks=("standard",), reliability=False)
            return {"seconds": time.perf_counter() - started, "in_files": spent[0]}


def main() -> None:
    """Measure both and write ``benchmarks/results/footprint.json``."""
    found = {
        "peak_mib": {name: peaks(name) for name in ("resnet20", "mobilenetv2")},
        "records": records(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    (RESULTS / "footprint.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    side(sys.argv[2], sys.argv[1]) if len(sys.argv) > 2 else main()
