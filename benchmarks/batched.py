"""``python -m benchmarks.batched``: two teachers of one shape as one network, against one after the other.

``torch.func.functional_call`` under ``vmap`` over stacked weights makes one grouped convolution of a layer's two.
Forward passes in fp32 without gradients, as MTARD asks its teachers; in turn, one thread. Writes
``benchmarks/results/batched.json``.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from time import process_time

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from benchmarks.ratio import ratio
from benchmarks.steps import CIFAR, CPU, network
from overproof.environment import hardware, versions
from overproof.models.layout import lay_out
from overproof.models.weights import freeze

RESULT = Path(__file__).parent / "results" / "batched.json"


def ways(name: str, batch: int, place: torch.device = CPU) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return two functions that give the logits ``[2, N, K]``: one teacher after the other, and both at once."""
    teachers = [freeze(network(name, seed, place)) for seed in (1, 2)]
    x = torch.rand(batch, CIFAR.channels, CIFAR.height, CIFAR.width, device=place)
    weights, buffers = stack_module_state(teachers)  # type: ignore[arg-type]
    shell = deepcopy(teachers[0])
    for teacher in teachers:
        lay_out(torch.channels_last, teacher)
    rows = x.contiguous(memory_format=torch.channels_last)
    both = torch.vmap(lambda w, b: functional_call(shell, (w, b), (x,)))

    def in_turn() -> Tensor:
        with torch.no_grad():
            return torch.stack([teacher(rows) for teacher in teachers])

    def at_once() -> Tensor:
        with torch.no_grad():
            found: Tensor = both(weights, buffers)
            return found

    return in_turn, at_once


def main() -> None:
    """Measure, print, and write the file."""
    torch.set_num_threads(1)
    results = {"hardware": hardware(CPU), "versions": versions(), "in turn / at once": {}}
    for name in ("resnet20", "resnet18"):
        for batch in (16, 64):
            in_turn, at_once = ways(name, batch)
            torch.testing.assert_close(at_once(), in_turn(), rtol=1e-3, atol=1e-4)
            found = ratio(in_turn, at_once, 7, process_time)
            results["in turn / at once"][f"{name}, batch {batch}"] = asdict(found)
            print(f"{name}, batch {batch}: in turn / at once {found}", flush=True)
            RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
