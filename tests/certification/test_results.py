import json
import math

import pytest
import torch

from overproof.attacks.ball import Radius, Threat
from overproof.certification.cascade import ERROR, FALSIFIED, NO_MEMORY, STAGES, UNKNOWN, VERIFIED, Plan
from overproof.certification.results import Certificates, count_verified

HOW = Plan(threat=Threat(eps=Radius("2/255")), reach="crown")


def state(verdict, stage, right, lower=0.5, problem=0):
    count = len(verdict)
    stages = [STAGES.index(name) for name in stage]
    return {
        "label": torch.arange(count),
        "prediction": torch.arange(count) + ~torch.tensor(right),
        "verdict": torch.tensor(verdict),
        "stage": torch.tensor(stages),
        "lower": torch.full((count,), lower),
        "margin": torch.ones(count),
        "cost": torch.full((count,), 0.25, dtype=torch.float64),
        "problem": torch.full((count,), problem),
        "stage_seconds": torch.tensor([1.0, 2.0, 0.5, 0.0, 4.0, 0.0, 0.0], dtype=torch.float64),
        "seconds": torch.ones(2, dtype=torch.float64),
        "passes": torch.tensor(3),
    }


FIRST = state([VERIFIED, FALSIFIED, FALSIFIED], ["ibp", "clean", "attack"], [True, False, True])
SECOND = state([UNKNOWN, ERROR, VERIFIED], ["crown", "ibp", "crown"], [True] * 3, lower=-math.inf, problem=NO_MEMORY)


def test_the_verdicts_add_up_and_are_kept_apart():
    found = Certificates.of([FIRST, SECOND], plan=HOW).plain()
    assert found["counts"] == {"verified": 2, "falsified": 1, "wrong": 1, "unknown": 1, "error": 1}
    assert (found["clean"]["passed"], found["standing"]["passed"], found["verified"]["passed"]) == (5, 4, 2)
    assert found["verified"]["of"] == sum(found["counts"].values()) == 6
    assert found["verified"]["claim"] == "verified within linf 2/255"
    low, high = found["verified"]["interval"]
    assert low < 2 / 6 < high
    assert found["stages"]["ibp"] == {"verified": 1, "falsified": 0, "seconds": 1.0}
    assert found["stages"]["crown"] == {"verified": 1, "falsified": 0, "seconds": 8.0}
    assert list(found["stages"]) == ["clean", "attack", "ibp", "crown_ibp", "crown"]
    for name in ("verified", "falsified"):
        wrong = found["counts"]["wrong"] if name == "falsified" else 0
        assert sum(stage[name] for stage in found["stages"].values()) == found["counts"][name] + wrong


def test_evidence_of_blocks_adds_up_to_that_of_all():
    parts = [count_verified(HOW, block) for block in (FIRST, SECOND)]
    whole = Certificates.of([FIRST, SECOND], plan=HOW).evidence
    assert parts[0] + parts[1] == whole
    assert (whole.passed, whole.of, whole.seconds) == (2, 6, 15.0)


def test_one_record_per_example_that_json_can_hold():
    lines = Certificates.of([FIRST, SECOND], plan=HOW).records(index=[3, 5, 7, 9, 11, 13])
    assert [line["index"] for line in lines] == [3, 5, 7, 9, 11, 13]
    assert [line["verdict"] for line in lines] == [
        "verified",
        "falsified",
        "falsified",
        "unknown",
        "error",
        "verified",
    ]
    assert [line["by"] for line in lines] == ["ibp", "clean", "attack", "crown", "ibp", "crown"]
    assert [line["lower"] for line in lines] == [0.5, 0.5, 0.5, None, None, None]
    assert lines[0]["problem"] is None
    assert lines[4]["problem"] == "not even this one example fits into memory"
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines
    with pytest.raises(ValueError, match="zip"):
        Certificates.of([FIRST], plan=HOW).records(index=[1, 2])
