"""Queries of VNN-COMP 2021 (``wild/README`` in the shared reference): read, and no answer contradicts a public one."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from overproof.formats.properties import Sizes, property_of
from overproof.verbs.decide import decide, read_query
from overproof.verbs.instances import read_instances

WILD = Path(__file__).parents[3] / "shared/reference/wild/queries"
pytestmark = pytest.mark.skipif(not WILD.is_dir(), reason="needs the published files")
BENCHMARKS = ("cifar10_resnet", "mnistfc", "oval21", "verivital")
SHAPES = {"mnist-net_256x2.onnx": (784, 1), "Convnet_maxpool.onnx": (1, 28, 28)}


def public():
    """Return the answers of eight verifiers by benchmark and query; ``none`` is left out."""
    found = defaultdict(set)
    with (WILD / "results-2021.csv").open(newline="") as table:
        for benchmark, _, query, *answers in list(csv.reader(table))[1:]:
            found[benchmark, query] |= set(answers[::2]) & {"sat", "unsat"}
    return found


def test_every_query_is_a_box_and_nine_classes():
    instances = read_instances(WILD / "instances.csv")
    assert len(instances) == 61
    for each in instances:
        network = each.networks[""].name
        shape = SHAPES.get(network, (3, 32, 32))
        read = property_of(read_query(each.query), [Sizes(network, shape, 10)])
        assert len(read.cases) == 9 and all(case.weight.shape == (1, 10) for case in read.cases) and read.compares
        lower, upper = read.inner[0]
        assert lower.numel() == np.prod(shape) and (lower <= upper).all() and (lower < upper).any()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_no_answer_contradicts_a_public_one(benchmark, tmp_path):
    """Where a verifier said ``sat``, all are tried; else every third."""
    answers, found = public(), {}
    instances = [each for each in read_instances(WILD / "instances.csv") if each.query.parent.name == benchmark]
    for number, each in enumerate(instances):
        known = answers[benchmark, each.query.name]
        if number % 3 == 0 or "sat" in known:
            answer = decide(each.networks, each.query, seconds=2.0, out=tmp_path)
            found[each.query.name] = answer["result"]
            assert answer["result"] == "unknown" or not known or answer["result"] in known, each.query
            assert not answer["notes"]  # bounds follow all networks
    assert len(found) >= 4 and "error" not in found.values()
