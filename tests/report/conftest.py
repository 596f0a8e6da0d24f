"""Evaluations and what else a run holds, by hand, as the files have it."""

import copy

import numpy as np
import pytest

from overproof.report.findings import Findings
from overproof.report.pictures import Pictures
from overproof.statistics import Proportion


def evidence(passed, of):
    return Proportion(claim="it holds", passed=passed, of=of, seconds=1.0).plain()


BASE = {
    "schema": 2,
    "run": "toy",
    "method": "ard",
    "architecture": "mlp",
    "recipe_seed": 0,
    "model_digest": "a" * 64,
    "selected_on": "held-out part of the training split",
    "parameters": 1234567,
    "data": {"name": "digits", "split": "test", "examples": 200, "of": 200, "digest": "0123456789abcdef"},
    "threat": {"norm": "linf", "eps": "8/255"},
    "suite": {"name": "recipe", "survivors": False, "caution": ""},
    "seed": 0,
    "batch": 50,
    "search_precision": "fp32",
    "clean": evidence(180, 200),
    "attacks": {"fgsm": evidence(120, 200), "pgd-20": evidence(101, 200)},
    "worst": evidence(100, 200),
    "warnings": [],
    "versions": {"overproof": "0.1.0", "torch": "2.13"},
    "hardware": "a CPU",
}

RECIPE = {"name": "toy", "seed": 0, "method": {"kind": "ard", "alpha": 1.0}, "training": {"epochs": 2}}

BINS = [
    {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None},
    {"lower": 0.5, "upper": 1.0, "count": 200, "confidence": 0.8, "accuracy": 0.9},
]

CALIBRATION = {name: {"of": 200, "ece": ece, "bins": BINS} for name, ece in (("clean", 0.1), ("attacked", 0.2))}

TEACHER = {
    "name": "runs/teacher",
    "clean": {"same": evidence(190, 200), "gap": 0.05, "under": 0.03, "over": 0.02},
    "attacked": {"same": evidence(150, 200), "gap": 0.15, "under": 0.1, "over": 0.05},
}

RELIABILITY = {
    "result": "suspect",
    "sentence": "The robust accuracy is to be doubted: noise broke 9 of 128 images.",
    "signs": [
        {"name": "noise", "level": "suspect", "finding": "noise broke 9 of 128 images", "figures": {"share": 0.07}},
        {
            "name": "monotone",
            "level": "fine",
            "finding": "robust accuracy does not rise with the radius",
            "figures": {"eps 0.0157": 0.8, "eps 0.0314": 0.5, "eps 0.0627": None, "eps 1": 0.0},
        },
    ],
}

CERTIFICATE = {
    "schema": 1,
    "model_digest": "a" * 64,
    "data": {"name": "digits", "split": "test", "examples": 50, "of": 200, "digest": "fedcba98"},
    "threat": {"norm": "linf", "eps": "4/255"},
    "seed": 0,
    "batch": 100,
    "kind": "bounds",
    "bound": "crown",
    "budget": 1.0,
    "verified": evidence(20, 50),
    "standing": evidence(30, 50),
    "teacher": {
        "name": "runs/teacher",
        "examples": 45,
        "of": 50,
        **{side: {"attacked": 0.1, "proven": 0.4} for side in ("gap", "under", "over")},
        "curve": [{"gamma": 0.1, "proven": evidence(10, 45), "standing": evidence(40, 45)}],
        "agreement": {"proven": evidence(10, 45), "standing": evidence(40, 45)},
    },
    "hardware": "a CPU",
}

METRICS = [
    {
        "epoch": epoch,
        "terms": {"adv": 1.0 / epoch, "clean": 0.5 / epoch},
        "learning_rate": 0.1,
        "validation": None if epoch == 1 else {"epoch": epoch, "clean": 0.9, "robust": 0.9 / epoch},
        "best_epoch": None if epoch == 1 else 2,
        "seconds": 30.0,
        "passes": {"student": {"forward": 10, "backward": 9}, "robust": {"forward": 1, "backward": 0}},
        "state": {"weights": [0.5 - epoch / 10, 0.5 + epoch / 10], "initial": [1.0, 1.0]},
    }
    for epoch in (1, 2, 3)
]

EXAMPLES = [
    {
        "index": index,
        "label": index % 2,
        "prediction": index % 2 if index else 1,
        "broken_by": "fgsm" if index > 5 else None,
    }
    for index in range(8)
]


@pytest.fixture(scope="session")
def evaluation():
    """Return a function: an evaluation with some keys replaced; a double underscore descends."""

    def make(**changes):
        found = copy.deepcopy(BASE)
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = found
            for part in parents:
                node = node[part]
            node[last] = value
        return found

    return make


@pytest.fixture(scope="session")
def finding(evaluation):
    """Return a function: the findings of a run that holds its evaluation alone, with some of its keys replaced."""
    return lambda **changes: Findings(evaluation=evaluation(**changes))


def pictures(count=5, *, first=0, classes=2, shape=(1, 6, 4), teacher=True, seed=0):
    """Return random images and random changes of them; the teacher is right about every second attacked one."""
    draws = np.random.default_rng(seed)
    clean = np.stack(
        [np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8) for index in range(first, first + count)]
    )
    attacked = np.clip(clean.astype(int) + draws.integers(-8, 9, clean.shape), 0, 255).astype(np.uint8)
    labels = [index % classes for index in range(first, first + count)]
    wrong = [(label + 1) % classes for label in labels]
    answers = {"clean": [(label, 0.9) for label in labels], "attacked": [(label, 0.6) for label in wrong]}
    if teacher:
        mixed = [pair[row % 2] for row, pair in enumerate(zip(labels, wrong, strict=True))]
        answers |= {
            "teacher_clean": [(label, 0.95) for label in labels],
            "teacher_attacked": [(one, 0.7) for one in mixed],
        }
    return Pictures(
        clean=clean, attacked=attacked, index=list(range(first, first + count)), labels=labels, answers=answers
    )


@pytest.fixture(scope="session")
def full(evaluation):
    """Return a function: the findings of a run that holds all that a run can hold."""

    def make(name="toy", method="ard", seed=0, *, images=5, shape=(1, 6, 4), robust=100, recipe=None, **changes):
        attacks = {
            attack: evidence(robust + 1, 200)
            | {"survivors": [[0, 180], [1, 150], [10, robust + 1]], "trial": {"name": attack}}
            for attack in ("fgsm", "pgd-20")
        }
        found = evaluation(
            run=name,
            method=method,
            recipe_seed=seed,
            model_digest=f"{name}{'a' * 64}"[:64],
            attacks=attacks,
            worst=evidence(robust, 200),
            calibration=copy.deepcopy(CALIBRATION),
            teacher=copy.deepcopy(TEACHER),
            reliability=copy.deepcopy(RELIABILITY),
            **changes,
        )
        return Findings(
            evaluation=found,
            folder=f"runs/{name}",
            certificate=copy.deepcopy(CERTIFICATE),
            metrics=METRICS,
            examples=EXAMPLES,
            recipe={**RECIPE, "name": name, "seed": seed, "method": {"kind": method, "alpha": 1.0}, **(recipe or {})},
            classes=("zero", "one"),
            multiply_adds=4321,
            pictures=pictures(images, shape=shape, seed=seed) if images else None,
        )

    return make
