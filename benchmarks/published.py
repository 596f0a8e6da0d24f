"""``python -m benchmarks.published [FOLDER]``: ONNX files of other people, loaded, attacked and certified.

``FOLDER`` (default ``../shared``) holds ``reference/wild/onnx`` and ``data``. Writes
``benchmarks/results/published.json``. Needs the extra ``export``.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.environment import hardware, versions
from overproof.runs.resolve import resolve
from overproof.signature import Signature

RESULTS = Path(__file__).parent / "results"
MNIST = Signature(channels=1, height=28, width=28, classes=10)
CIFAR = Signature(channels=3, height=32, width=32, classes=10)
FILES: Mapping[str, tuple[str, Signature, str, str]] = {
    "Convnet_maxpool.onnx": ("mnist", MNIST, "0.1", "0.005"),
    "mnist-net_256x2.onnx": ("mnist", MNIST, "0.05", "0.01"),
    "cifar10_small.onnx": ("cifar10-jpeg", CIFAR, "1/255", "0.001"),
    "cifar_base_kw.onnx?mean=0.485,0.456,0.406&std=0.225,0.225,0.225": ("cifar10-jpeg", CIFAR, "2/255", "1/255"),
    "resnet_2b.onnx?mean=0.4914,0.4822,0.4465&std=0.2471,0.2435,0.2616": ("cifar10-jpeg", CIFAR, "2/255", "1/255"),
}
"""Each file's images, and the eps at which it is attacked and certified. The means and the deviations are those that
the files' publishers use; ``cifar10_small`` and the networks of MNIST take pixels as they are."""
ATTACKED, CERTIFIED, SECONDS = 100, 50, 5.0


def measured(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Return what becomes of one file: seconds until it is loaded and compared, its accuracies, and what is proved."""
    data, signature, eps, small = FILES[name]
    word, images = f"{folder}/reference/wild/onnx/{name}", f"{folder}/data/{data}"
    resolve(word, signature)  # imports what it needs
    start = perf_counter()
    resolve(word, signature)
    loading = perf_counter() - start
    given: dict[str, Any] = {"data": images, "device": "cpu"}
    found = evaluate(word, attacks=("quick",), eps=eps, examples=ATTACKED, out=out / "e", **given)
    proved = certify(word, eps=small, examples=CERTIFIED, seconds=SECONDS, out=out / "c", **given)
    return {
        "images": data,
        "loading": loading,
        "parameters": found["parameters"],
        "eps": eps,
        "clean": found["clean"]["passed"],
        "robust": found["worst"]["passed"],
        "attacked": ATTACKED,
        "certified_eps": small,
        "counts": proved["counts"],
    }


def main() -> None:
    """Measure every file, print and write the rows."""
    torch.set_num_threads(1)
    folder, rows = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"), {}
    for name in FILES:
        with TemporaryDirectory() as out:
            rows[name] = measured(name, folder, Path(out))
        print(name, json.dumps(rows[name]), flush=True)
    found = {"files": rows, "seconds": SECONDS, "hardware": hardware(torch.device("cpu")), "versions": versions()}
    (RESULTS / "published.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
