"""``python -m benchmarks.precisions``: one epoch of every method on digits in bf16 and in fp32, three seeds each.

A seed gives both the same start, order and draws. What is compared is the accuracy under PGD-10 on all test images,
searched and judged in fp32. The teachers are trained once, in fp32. Writes ``benchmarks/results/precisions.json``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.steps import shortened
from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec
from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.data.sources import Digits
from overproof.environment import hardware, versions
from overproof.evaluation.attacked import judge
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.methods.pgd_at import PGDAT
from overproof.models.architectures.convnet import ConvNet
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze
from overproof.statistics import Spread
from overproof.training.loop import Loop
from overproof.training.optimisation import AdamW, Training

RESULT = Path(__file__).parent / "results" / "precisions.json"
EPS = Radius("0.05")
SEEDS = (0, 1, 2)
NETWORK = ConvNet(channels=(16, 32), kernel=3, stride=(1, 2), hidden=(64,))
TRAIN, TEST = Digits().load("train"), Digits().load("test")


def trained(
    method: Method, teachers: Mapping[str, Classifier], seed: int, precision: str, epochs: int = 1
) -> Classifier:
    """Return the student of a run."""
    torch.manual_seed(seed)
    networks = {name: build(NETWORK, TRAIN.signature) for name in ("student", *method.auxiliary_models)}
    student = networks.pop("student")
    training = Training(epochs=epochs, batch=32, optimiser=AdamW(lr=0.01), precision=precision)  # type: ignore[arg-type]
    roles = {role: teachers[role] for role in method.roles}
    loop = Loop(
        method, student, roles, Loader(TRAIN, 32, Augment(crop=1), seed), training, seed, auxiliary_models=networks
    )
    for _ in loop.run():
        pass
    return loop.student


def robust(network: Classifier) -> float:
    """Return the accuracy under PGD-10."""
    return judge(network, TEST, (AttackSpec(name="pgd-10", attack=PGD(eps=EPS, steps=10)),)).worst.share


def main() -> None:
    """Train, attack, print a line a method, and write after each."""
    torch.set_num_threads(1)
    teachers = {
        "robust": freeze(trained(PGDAT(inner=PGD(eps=EPS, steps=3)), {}, 9, "fp32", epochs=8)),
        "clean": freeze(trained(Natural(), {}, 9, "fp32", epochs=8)),
    }
    results: dict[str, Any] = {
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "examples": len(TEST),
        "methods": {},
    }
    differences = []
    for kind in methods():
        found = {
            precision: [robust(trained(shortened(kind, str(EPS)), teachers, seed, precision)) for seed in SEEDS]
            for precision in ("fp32", "bf16")
        }
        pairs = [rough - exact for exact, rough in zip(found["fp32"], found["bf16"], strict=True)]
        difference = Spread.of(pairs)
        differences.append(difference.mean)
        results["methods"][kind] = found | {"within noise": abs(difference.mean) <= difference.half_width}
        print(
            f"{kind:<12} fp32 {Spread.of(found['fp32'])}  bf16 {Spread.of(found['bf16'])}  difference {difference}",
            flush=True,
        )
        everywhere = Spread.of(differences) if len(differences) > 1 else difference
        results["difference of all methods"] = [everywhere.mean, everywhere.half_width]
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"difference over all methods, in points: {everywhere}")


if __name__ == "__main__":
    main()
