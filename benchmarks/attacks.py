"""The same attack by us and by pyautoattack, as two functions to time."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.reference import images, network
from benchmarks.steps import network as drawn
from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.suites import AttackSpec, Suite, standard
from overproof.data.images import Batch
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.engine import run_attacks
from overproof.models.classifier import Classifier
from overproof.models.precision import choose_precision
from overproof.models.weights import freeze

Work = Callable[[], object]


def attacked(batch: int) -> Iterator[tuple[str, Work, Work]]:
    """Yield a name, what pyautoattack does, and what we do.

    The networks of CIFAR's shape have random weights and a radius so small that hardly any image is broken: all passes
    are made, by both.
    """
    warnings.simplefilter("ignore")
    x, y = images(50)
    threat = Threat(eps=Radius("0.15"))
    yield (
        "cnn_pgd, 50 images, standard",
        partial(_theirs, network(), x, y, threat, ["apgd-ce", "apgd-t", "fab-t", "square"], 100),
        partial(ours, network(), x, y, standard(threat)),
    )
    threat = Threat(eps=Radius("1/2550"))
    for name in ("resnet18", "mobilenetv2"):
        model = freeze(drawn(name, 0))
        x = torch.rand(batch, 3, 32, 32)
        with torch.no_grad():
            y = model(x).argmax(dim=1)
        suite = Suite(name="one", attacks=(AttackSpec(name="apgd-ce", attack=APGD(eps=threat.eps, steps=5)),))
        yield (
            f"{name}, {batch} images, APGD-CE, 5 steps",
            partial(_theirs, model, x, y, threat, ["apgd-ce"], 5),
            partial(ours, model, x, y, suite),
        )


def ours(model: Classifier, x: Tensor, y: Tensor, suite: Suite) -> None:
    """Take the images through the suite as an evaluation does, in the precision that ``auto`` takes."""
    precision = choose_precision("auto", x.device, model)
    for _ in run_attacks(prepare_subject(model, precision=precision), Batch(x, y), suite, seed=0, number=0):
        pass


def _theirs(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, names: list[str], steps: int) -> None:
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm="Linf", eps=float(threat.eps), seed=0, version="standard")
    attack.verbose, attack.attacks_to_run, attack.apgd.n_iter = False, names, steps
    attack.run_standard_evaluation(x, y, batch_size=len(x))
