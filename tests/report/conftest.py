"""Evaluations by hand, as ``evaluation.json`` holds them."""

import copy

import pytest

from overproof.evaluation.evidence import Evidence


def evidence(passed, of):
    return Evidence(claim="it holds", passed=passed, of=of, seconds=1.0).plain()


BASE = {
    "schema": 1,
    "run": "toy",
    "method": "ard",
    "architecture": "mlp",
    "parameters": 1234567,
    "data": {"name": "digits", "split": "test", "examples": 200, "of": 360, "digest": "0123456789abcdef"},
    "threat": {"norm": "linf", "eps": "8/255"},
    "clean": evidence(180, 200),
    "attacks": {"fgsm": evidence(120, 200), "pgd-20": evidence(101, 200)},
    "worst": evidence(100, 200),
    "versions": {"overproof": "0.1.0", "torch": "2.13"},
    "hardware": "a processor",
}


@pytest.fixture
def evaluation():
    """Return a function: an evaluation with some keys replaced; dots descend."""

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
