import json

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.certification.cascade import Plan, Proposal, trace_classifier
from overproof.certification.smoothing import Smoothing
from overproof.data.images import Batch
from overproof.evaluation.attacked import prepare_subject
from overproof.models.classifier import Classifier
from overproof.runs.certificate import Bounding, Smoothening
from overproof.signature import Signature

TASK = Signature(channels=1, height=4, width=4, classes=3)


@pytest.fixture
def model():
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), TASK).eval()


@pytest.fixture
def block(model):
    x = torch.rand(9, 1, 4, 4)
    with torch.no_grad():
        return Batch(x, model(x).argmax(dim=1))


@pytest.fixture(params=["bounds", "smoothing"])
def certificate(request, model):
    if request.param == "bounds":
        plan = Plan(threat=Threat(eps=Radius("0.01")), reach="crown")
        return Bounding(Proposal(prepare_subject(model), trace_classifier(model, where="net")), None, plan)
    return Smoothening(model, Threat(norm="l2", eps=Radius("0.05")), Smoothing(sigma=0.1, samples=100))


def test_only_the_last_step_is_whole_and_its_figures_are_those_of_the_records(certificate, block):
    rows = torch.arange(9) * 3
    *before, last = certificate.steps(block, None, seed=0, number=0, rows=rows)
    assert not any(step.whole for step in before)
    assert (last.whole, last.done, last.stage) == (True, 9, "done")
    figures = certificate.figures([last.state])
    assert figures["verified"]["passed"] == certificate.evidence(last.state).passed > 0
    assert sum(figures["counts"].values()) == 9
    records = json.loads(json.dumps(certificate.records([last.state], rows.tolist())))
    assert [record["index"] for record in records] == rows.tolist()
    images = certificate.counter_examples([last.state], rows.tolist())
    falsified = [record["index"] for record in records if record.get("verdict") == "falsified"]
    assert images.get("index", torch.tensor([])).tolist() == falsified


def test_a_block_goes_on_from_every_step(certificate, block):
    rows = torch.arange(9)
    steps = []
    for step in certificate.steps(block, None, seed=0, number=0, rows=rows):
        steps.append({name: value.clone() for name, value in step.state.items()})
    whole = certificate.figures([steps[-1]])["counts"]
    for left in steps:
        *_, last = certificate.steps(block, left, seed=0, number=0, rows=rows)
        assert certificate.figures([last.state])["counts"] == whole
        assert last.whole
