"""Queries of VNN-COMP 2021 (``wild/README`` in the shared reference): read, and no answer contradicts a public one."""

import csv
import gzip
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from overproof.commands.decide import decide, read_query
from overproof.commands.instances import read_instances
from overproof.formats.properties import Sizes, property_of

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


def confirm(instance, witness):
    """The witness is in the box, and the file answers as it says; read without any code of ours."""
    text = gzip.decompress(instance.query.read_bytes()).decode()
    said = {name: float(value) for name, value in re.findall(r"\((\w+) (\S+?)\)", witness)}
    x = np.float32([said[f"X_{place}"] for place in range(sum(name[0] == "X" for name in said))])
    session = onnxruntime.InferenceSession(instance.networks[""])
    (given,) = session.get_inputs()
    y = session.run(None, {given.name: x.reshape(given.shape)})[0].flatten()
    assert np.array_equal(y, np.float32([said[f"Y_{place}"] for place in range(10)]))
    for sign, place, bound in re.findall(r"\(assert \((<=|>=) X_(\d+) (\S+?)\)\)", text):
        assert float(x[int(place)]) <= float(bound) if sign == "<=" else float(x[int(place)]) >= float(bound)
    pairs = re.findall(r"\(and \((<=|>=) Y_(\d) Y_(\d)\)\)", text)
    assert len(pairs) == 9
    assert any(y[int(a)] <= y[int(b)] if sign == "<=" else y[int(a)] >= y[int(b)] for sign, a, b in pairs)


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
            if answer["result"] == "sat":
                confirm(each, Path(answer["witness"]).read_text())
    assert len(found) >= 4 and "error" not in found.values()
