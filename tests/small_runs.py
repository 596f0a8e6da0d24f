"""Recipes that train in a second on the embedded digits, and finished runs of them."""

import numpy as np
import pytest
import yaml

from overproof.commands.train import train
from overproof.recipe import parse

TOY = {
    "name": "toy",
    "data": {"kind": "digits"},
    "threat": {"eps": "0.1"},
    "student": {"kind": "mlp", "hidden": [16]},
    "method": {"kind": "natural"},
    "training": {
        "epochs": 2,
        "batch": 128,
        "optimiser": {"kind": "adamw", "lr": 0.01},
        "precision": "fp32",
    },
    "selection": {"examples": 40, "trial": {"name": "pgd-2", "attack": {"steps": 2}}},
    "evaluation": {
        "attacks": [
            {"name": "fgsm", "attack": {"steps": 1, "start": "none"}},
            {"name": "pgd-5", "attack": {"steps": 5, "restarts": 2}},
        ]
    },
}


@pytest.fixture(scope="session")
def toy():
    """Return a function: the toy recipe after ``path=value`` edits."""

    def make(*sets):
        return parse(yaml.safe_dump(TOY), sets)

    return make


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory):
    """Return a function: the run of a toy recipe, trained once per test session; not to be changed."""
    runs = {}

    def make(*sets):
        if sets not in runs:
            runs[sets] = train(toy(*sets), tmp_path_factory.mktemp("runs") / "run", device="cpu", keep_checkpoint=True)
        return runs[sets]

    return make


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Return a function: an npz file of random images of a size and number of classes."""

    def make(side=8, classes=10, each=12):
        file = tmp_path_factory.mktemp("data") / f"squares-{side}-{classes}.npz"
        draws = np.random.default_rng(0)
        labels = np.arange(each * classes) % classes
        images = draws.integers(0, 256, (len(labels), side, side), dtype=np.uint8)
        np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
        return file

    return make
