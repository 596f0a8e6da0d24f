"""``python -m benchmarks.threads``: what a second thread gives a training step, by the size of the network's batch.

One forward and one backward pass, with one thread and with one per core, in turn. Two runs that each keep a core do
twice the work of one run on one thread, so a speed-up well below the number of cores says: train several at a time.
``runs/workers.py`` holds the bound that follows. The fastest of many rounds counts, which other work on the machine
touches least.
"""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from overproof.environment import hardware, versions
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.cost import multiply_adds
from overproof.models.layout import lay_out
from overproof.models.weights import build
from overproof.runs.workers import cores
from overproof.signature import Signature

RESULT = Path(__file__).parent / "results" / "threads.json"
DIGITS = Signature(channels=1, height=8, width=8, classes=10)
MNIST = Signature(channels=1, height=28, width=28, classes=10)
CIFAR = Signature(channels=3, height=32, width=32, classes=10)
NETWORKS: dict[str, tuple[Architecture, Signature]] = {
    "digits, convnet 8-16": (ConvNet(channels=(8, 16), kernel=3, stride=(1, 2), padding=1, hidden=(32,)), DIGITS),
    "digits, convnet 32-64": (ConvNet(channels=(32, 64), kernel=3, stride=(1, 2), padding=1, hidden=(128,)), DIGITS),
    "MNIST, convnet 8-16": (ConvNet(channels=(8, 16), kernel=3, stride=(2, 2), padding=1, hidden=(64,)), MNIST),
    "MNIST, convnet 32-64": (ConvNet(channels=(32, 64), kernel=3, stride=(1, 2), padding=1, hidden=(128,)), MNIST),
    "CIFAR, resnet20 at 0.5": (ResNet(depth=20, width=0.5), CIFAR),
    "CIFAR, resnet20": (ResNet(depth=20), CIFAR),
    "CIFAR, resnet18 at 0.5": (ResNet(depth=18, width=0.5), CIFAR),
}
BATCH = 64


def fastest(network: nn.Module, x: torch.Tensor, threads: tuple[int, ...], seconds: float) -> list[float]:
    """Return the seconds of the fastest step with each number of threads, tried in turn for some time."""
    best = [float("inf")] * len(threads)
    began, rounds = perf_counter(), 0
    while rounds < 5 or perf_counter() - began < seconds:
        for number, count in enumerate(threads):
            torch.set_num_threads(count)
            network(x)  # wakes the threads
            started = perf_counter()
            network(x).square().sum().backward()
            best[number] = min(best[number], perf_counter() - started)
        rounds += 1
    return best


def main() -> None:
    """Measure, write the file and print a table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    rows: list[dict[str, Any]] = []
    for name, (architecture, signature) in NETWORKS.items():
        torch.manual_seed(0)
        network = build(architecture, signature)
        lay_out(torch.channels_last, network)
        x = torch.rand(BATCH, signature.channels, signature.height, signature.width)
        one, all_ = fastest(network, x.contiguous(memory_format=torch.channels_last), (1, cores()), seconds)
        size = BATCH * multiply_adds(network, signature)
        rows.append({"network": name, "multiply_adds": size, "one": one, "all": all_, "speedup": one / all_})
        print(
            f"{name}: {size / 1e6:.1f} M, {1e3 * one:.2f} ms, {1e3 * all_:.2f} ms, {one / all_:.2f} times", flush=True
        )
    found = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "cores": cores(), "rows": rows}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
