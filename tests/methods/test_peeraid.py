import json

import pytest
import torch
from safetensors.torch import load_file

import overproof
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec
from overproof.commands.train import train, training
from overproof.data.sources import Digits
from overproof.methods.peeraid import PeerAiD
from overproof.models.architectures.mlp import MLP
from overproof.recipe import Recipe, Selection
from overproof.training.optimisation import SGD, Training

from .by_hand import ADV, X, ce, counting, equal, gradients, kl, looked, maximises, only, step_of, tell

WEIGHTS = {"label": 0.3, "peer": 0.7, "own": 1.3, "peer_label": 0.9, "peer_student": 0.2}


def by_hand(step, weights, t, peer_t, classes, detach):
    student, peer = step.student, step.auxiliary_models["peer"]
    fixed = (lambda z: z.detach()) if detach else (lambda z: z)
    return {
        "peer_label": weights["peer_label"] * ce(peer(ADV)).mean(),
        "peer_student": weights["peer_student"]
        * peer_t**2
        * kl(fixed(student(ADV)), peer(ADV), peer_t).mean()
        / classes,
        "label": weights["label"] * ce(student(ADV)).mean(),
        "peer": weights["peer"] * t**2 * kl(peer(ADV).detach(), student(ADV), t).mean() / classes,
        "own": weights["own"] * t**2 * kl(fixed(student(X)), student(ADV), t).mean() / classes,
    }


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("scale", ["batch", "class"])
@pytest.mark.parametrize(("t", "peer_t"), [(5.0, 1.0), (2.0, 3.0)])
def test_terms_are_the_formula(detach, scale, t, peer_t, monkeypatch):
    tell(monkeypatch)
    method = PeerAiD(**WEIGHTS, temperature=t, peer_temperature=peer_t, kl_scale=scale, detach_targets=detach)
    step = step_of(method)
    hand = by_hand(step, WEIGHTS, t, peer_t, 4 if scale == "class" else 1, detach)
    equal(only(method.losses(step)), hand, step.student, step.auxiliary_models["peer"])


def test_each_learns_from_the_other_and_sends_it_no_gradient(monkeypatch):
    tell(monkeypatch)
    step = step_of(PeerAiD())
    student, peer = step.student, step.auxiliary_models["peer"]
    terms = only(PeerAiD(**WEIGHTS).losses(step))
    for name, learner, other in (
        ("peer_label", peer, student),
        ("peer_student", peer, student),
        ("label", student, peer),
        ("peer", student, peer),
        ("own", student, peer),
    ):
        assert any(slope.any() for slope in gradients(terms[name], learner)), name
        assert not any(slope.any() for slope in gradients(terms[name], other)), name


def test_targets_that_are_not_detached_send_gradient_to_the_student(monkeypatch):
    tell(monkeypatch)
    step = step_of(PeerAiD())
    terms = only(PeerAiD(detach_targets=False).losses(step))
    assert any(slope.any() for slope in gradients(terms["peer_student"], step.student))
    # The student's own loss never moves the peer.
    assert not any(slope.any() for slope in gradients(terms["peer"], step.auxiliary_models["peer"]))


def test_the_search_maximises_the_divergence_from_the_peers_clean_answer(monkeypatch):
    told = tell(monkeypatch)
    method = PeerAiD(inner=PGD(start="normal", ramp=0.5))
    step = step_of(method, progress=0.25)
    peer = step.auxiliary_models["peer"]
    asked = counting(peer)
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)] and told.models == [step.student]
    assert [torch.equal(x, X) for x in asked] == [True, False]
    target = peer(X).detach()
    maximises(told, lambda x: kl(target, step.student(x)))


@pytest.mark.parametrize(("idle", "times"), [("none", 2), ("official", 3)])
def test_idle_passes_move_batchnorm_and_no_number(idle, times, monkeypatch, make_step, tiny_classifier):
    step = make_step(PeerAiD())
    tell(monkeypatch, step.x)
    peer = tiny_classifier(seed=5)
    step.auxiliary_models["peer"] = peer
    only(PeerAiD(idle_forwards=idle).losses(step))
    assert looked(step.student) == times
    assert looked(peer) == 1 and peer.training  # the clean answer of the peer is asked for in eval mode
    tell(monkeypatch)
    both = step_of(PeerAiD())
    terms = only(PeerAiD(idle_forwards=idle).losses(both))
    defaults = {"label": 0.0, "peer": 1.0, "own": 1.0, "peer_label": 1.0, "peer_student": 0.1}
    equal(terms, by_hand(both, defaults, 5.0, 1.0, 1, detach=True), both.student, both.auxiliary_models["peer"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"peer_temperature": -1.0}, "temperature must be positive, got -1.0"),
        *(({name: -0.5}, f"{name} is a weight and cannot be negative, got -0.5") for name in WEIGHTS),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        PeerAiD(**options)


def recipe():
    return Recipe(
        name="peers",
        data=Digits(),
        student=MLP(hidden=(16,)),
        method=PeerAiD(inner=PGD(steps=1, start="normal")),
        training=Training(epochs=3, batch=128, optimiser=SGD(lr=0.05), precision="fp32"),
        selection=Selection(examples=20, trial=AttackSpec(name="fgsm", attack=PGD(steps=1, start="none"))),
    )


def test_a_run_can_be_resumed_and_leaves_its_peer_behind(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    train(recipe(), whole, device="cpu")
    news = training(recipe(), torn, device="cpu")
    next(news)
    news.close()
    states = [torch.load(file, weights_only=True) for file in sorted((torn / "checkpoint").iterdir())]
    assert {name.split(".")[0] for name in states[-1]["companions"]} == {"peer"}
    train(recipe(), torn, resume=True, device="cpu")
    for name in ("model", "last"):
        weights, again = (load_file(folder / f"{name}.safetensors") for folder in (whole, torn))
        assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)
        assert not any("peer" in key for key in weights)
    assert set(overproof.load(whole).state_dict()) == set(weights)
    assert json.loads((whole / "model.json").read_text())["architecture"]["kind"] == "mlp"
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert set(records[0]["passes"]) == {"student", "peer"}
    assert records[-1]["terms"]["peer_label"] < records[0]["terms"]["peer_label"]  # the peer learns
