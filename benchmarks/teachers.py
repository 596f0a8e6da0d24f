"""``python -m benchmarks.teachers``: what a remembered or a bf16 teacher saves of a step; CPU time, in turn.

Random images of CIFAR's shape, a ResNet-18 as teacher, MobileNetV2 as student; every page of the memory is full, which
is the state of a run once the bank has been through.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import torch

from benchmarks.steps import ard, network, noise
from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.environment import hardware, versions
from overproof.methods.kd import KD
from overproof.methods.method import Method
from overproof.models.weights import freeze
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Constant, Training

RESULT = Path(__file__).parent / "results" / "teachers.json"
BATCH, BATCHES, ROUNDS = 16, 2, 3
WAYS = {"plain": {}, "teacher_cache": {"teacher_cache": True}, "teacher in bf16": {"teacher_precision": "bf16"}}


def epoch(method: Method, precision: str, **options: object) -> Callable[[], object]:
    """Return a function that trains for one epoch."""
    loader = Loader(noise(BATCH * BATCHES), BATCH, Augment(crop=4, flip=True, bank=1), seed=0)
    training = Training(
        epochs=10**6, batch=BATCH, precision=precision, optimiser=SGD(lr=1e-4), schedule=Constant(), **options
    )
    teacher = freeze(network("resnet18", 1))
    run = Loop(method, network("mobilenetv2", 0), {"robust": teacher}, loader, training, seed=0).run()
    return lambda: next(run)


def seconds(work: Callable[[], object]) -> float:
    """Return CPU seconds."""
    started = process_time()
    work()
    return process_time() - started


def main() -> None:
    """Measure, print, and write the file."""
    torch.set_num_threads(1)  # threads that wait for one another would spend CPU time on it
    found: dict[str, object] = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "ratios": {}}
    for name, method, precision in (("kd", KD(), "fp32"), ("kd", KD(), "bf16"), ("ard, 10 steps", ard(), "fp32")):
        ways = {way: epoch(method, precision, **options) for way, options in WAYS.items()}
        for work in ways.values():
            work()
        rounds = [{way: seconds(work) for way, work in ways.items()} for _ in range(ROUNDS)]
        for way in list(WAYS)[1:]:
            ratios = sorted(one[way] / one["plain"] for one in rounds)
            found["ratios"][f"{name}, {precision}: {way} / plain"] = [median(ratios), ratios[0], ratios[-1]]
            print(name, precision, way, [round(ratio, 2) for ratio in ratios], flush=True)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
