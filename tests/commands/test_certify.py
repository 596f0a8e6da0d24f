import json
import os
import shutil
import subprocess
import sys
from functools import partial
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file

from overproof.certification import pair as faithful
from overproof.commands.certify import certify as verb
from overproof.commands.certify import iter_certify
from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.runs.folder import Run, load

EPS = {"eps": "0.02", "device": "cpu"}


@pytest.fixture
def run(finished, tmp_path):
    """A finished toy run of its own for every test."""
    shutil.copytree(finished().folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def teacher(finished):
    """Another finished run, wider."""
    return finished("student={kind: mlp, hidden: [24]}", "training.epochs=6").folder


@pytest.fixture(autouse=True)
def _short_search(monkeypatch):
    """How hard the pair's attack searches is tested with the attack."""
    monkeypatch.setattr(faithful, "attack_pair", partial(faithful.attack_pair, steps=5, restarts=1))


def certify(*arguments, **options):
    return verb(*arguments, **EPS | {"examples": 60} | options)


def newest(run):
    """Return the folder of the certificate that was written last."""
    files = (run.folder / "certificates").glob("*/certificate.jsonl")
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent


def lines(run):
    """Return the examples' records of the certification before."""
    return [json.loads(line) for line in (newest(run) / "certificate.jsonl").read_text().splitlines()]


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        certify(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- one network ------------------------------------------------------------------------------------------------------


def test_the_files_agree_with_each_other_and_with_the_network(run):
    found = certify(run)
    assert json.loads((run.folder / "certificate.json").read_text()) == found
    examples, test = lines(run), Digits().load("test")
    assert len(examples) == 60
    verdicts = [(one["verdict"], one["by"]) for one in examples]
    counts = found["counts"]
    assert counts["verified"] == found["verified"]["passed"] == sum(verdict == "verified" for verdict, _ in verdicts)
    assert counts["wrong"] == verdicts.count(("falsified", "clean"))
    assert counts["falsified"] == verdicts.count(("falsified", "attack"))
    assert sum(counts.values()) == 60 == found["verified"]["of"]
    assert counts["verified"] > 20
    assert counts["falsified"] > 0
    assert found["verified"]["passed"] <= found["standing"]["passed"] <= found["clean"]["passed"]
    for one in examples:
        assert one["label"] == test.labels[one["index"]]
        assert (one["prediction"] == one["label"]) == (one["by"] != "clean")
        if one["verdict"] == "verified":
            assert 0 < one["lower"] <= one["attacked"] + 1e-4
    low, high = found["verified"]["interval"]
    assert low < found["verified"]["share"] < high


def test_the_counter_examples_are_kept_and_break_the_network_as_they_were_written(run):
    found = certify(run, eps="0.1")
    kept, test = load_file(run.folder / "counterexamples.safetensors"), Digits().load("test")
    assert len(kept["images"]) == found["counts"]["falsified"] > 3
    index = kept["index"]
    assert ((kept["images"] - test.images[index].float() / 255).abs() <= 0.1 + 1e-6).all()
    with torch.no_grad():
        assert (load(run.folder)(kept["images"]).argmax(dim=1) != test.labels[index]).all()


def test_it_says_what_was_proved_of_what(run):
    found = certify(run, bound="crown", seed=3, batch=7)
    assert (found["schema"], found["kind"], found["bound"], found["seed"], found["batch"]) == (
        1,
        "bounds",
        "crown",
        3,
        7,
    )
    assert found["threat"] == {"norm": "linf", "eps": "0.02"}
    assert found["model_digest"] == sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()
    assert found["data"]["examples"] == 60
    assert [attack["name"] for attack in found["attacks"]] == ["pgd-margin", "apgd-ce-20", "apgd-t-20"]
    assert {attack["attack"]["eps"] for attack in found["attacks"]} == {"0.02"}
    assert list(found["stages"]) == ["clean", "attack", "ibp", "crown_ibp", "crown"]
    assert set(found["versions"]) == {"overproof", "torch", "python"}
    assert found["hardware"]
    assert found["teacher"] is None


def test_the_recipes_threat_is_the_default_and_the_batch_decides_nothing(run):
    one = certify(run, eps=None, bound="crown")
    assert one["threat"] == {"norm": "linf", "eps": "0.1"}
    verdicts = [line["verdict"] for line in lines(run)]
    certify(run, eps=None, bound="crown", batch=11, overwrite=True)
    assert sum(a != b["verdict"] for a, b in zip(verdicts, lines(run), strict=True)) <= 1  # its attack draws again


def test_an_l2_ball(run):
    found = certify(run, norm="l2", eps="0.1", bound="crown")
    assert found["threat"] == {"norm": "l2", "eps": "0.1"}
    assert found["counts"]["verified"] > 20
    assert found["verified"]["claim"] == "verified within l2 0.1"


def test_progress_is_told_and_ends_at_the_whole(run, teacher):
    steps = list(iter_certify(run, **EPS, examples=30, batch=20, bound="crown", teacher=teacher))
    assert (steps[0].stage, steps[-1].stage) == ("certify", "done")
    assert {step.total for step in steps} == {30}
    assert steps[-1].done == 30
    assert all(0 <= step.done <= 30 for step in steps)
    assert steps[-1].verified.of == 30
    assert [step.warnings for step in steps if step.warnings] == []


# --- beside a teacher -------------------------------------------------------------------------------------------------


def test_the_pair_is_bracketed(run, teacher):
    found = certify(run, teacher=teacher, bound="crown", gamma=0.3, eps="0.01")
    pair = found["teacher"]
    assert pair["name"] == str(teacher)
    assert pair["of"] == 60
    assert 40 < pair["examples"] < 60
    for name in ("gap", "under", "over"):
        means = pair[name]
        assert means["attacked"] <= means["proven"] <= means["joint"] <= means["separate"]
    assert 0.3 in [one["gamma"] for one in pair["curve"]]
    for one in (*pair["curve"], pair["agreement"]):
        assert one["proven"]["passed"] <= one["standing"]["passed"]
    assert pair["agreement"]["proven"]["passed"] > 10
    examples = lines(run)
    assert sum(one["pair"] is not None for one in examples) == pair["examples"]
    for one in examples:
        if one["pair"]:
            assert one["pair"]["under_attacked"] <= one["pair"]["under_proven"]
            assert one["pair"]["agreement"] != "verified" or one["verdict"] == "verified"
    kept = load_file(run.folder / "counterexamples.safetensors")
    falsified = sum(bool(one["pair"]) and one["pair"]["agreement"] == "falsified" for one in examples)
    assert len(kept["disagreements"]) == len(kept["disagreements_index"]) == falsified


def test_what_goes_on_with_a_pair_cannot_be_mixed_up(run, teacher, toy, squares, tmp_path):
    word = refused(run, gamma=0.1)
    assert word == f"{run.folder}: gamma is a gap to a teacher; say which with --teacher RUN"
    assert refused(run, gamma=1.1, teacher=teacher) == "gamma is a difference of confidences, in [0, 1], got 1.1"
    assert refused(run, teacher=tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such run folder"
    recipe = toy(f"data={{kind: npz, path: {squares(side=6, classes=3)}}}", "training.batch=16")
    other = train(recipe, tmp_path / "other", device="cpu")
    assert refused(run, teacher=other.folder) == (
        f"{other.folder}: it is for 1x6x6, 3 classes, the data are 1x8x8, 10 classes"
    )


# --- smoothing --------------------------------------------------------------------------------------------------------


def test_smoothing_certifies_the_smoothed_network(run):
    options = {"smoothing": 0.25, "samples": 200, "norm": "l2", "eps": "0.1", "examples": 10}
    found = certify(run, **options)
    assert (found["kind"], found["smoothing"]["sigma"], found["smoothing"]["samples"]) == ("smoothing", 0.25, 200)
    assert found["smoothing"]["largest"] > 0.1
    examples = lines(run)
    assert found["verified"]["passed"] == sum(one["verdict"] == "certified" for one in examples)
    assert 0 < found["verified"]["passed"] < 10
    assert sum(found["counts"].values()) == 10
    certify(run, **options, batch=3, overwrite=True)
    assert lines(run) == examples


def test_smoothing_that_cannot_be_meant(run, teacher):
    word = "smoothing certifies l2 balls, not linf; add --norm l2 and an --eps in l2"
    assert refused(run, smoothing=0.25) == word
    options = {"smoothing": 0.25, "norm": "l2", "eps": "0.5"}
    sentence = refused(run, **options, samples=20)
    assert sentence.startswith("20 samples at alpha 0.001 and sigma 0.25 certify no l2 radius above ")
    assert "needs at least" in sentence
    assert refused(run, **options, teacher=teacher).startswith("smoothing certifies one network and no pair")
    assert "positive and finite, got -1" in refused(run, **options | {"smoothing": -1.0})
    assert "samples is a number of noisy images, at least 1, got 0" in refused(run, **options, samples=0)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": "-0.1"}, "a length must be positive, got -0.1"),
        ({"eps": "8"}, "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
        ({"norm": "l1", "eps": "1"}, "certificates are for linf and l2, not for l1"),
        (
            {"seconds": 0},
            "seconds, the time of an example, must be positive, got 0",
        ),
        ({"bound": "best"}, "there is no bound 'best' (one of: ibp, crown_ibp, crown, alpha, split)"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"examples": -1}, "examples must be 0 (all) or more, got -1"),
    ],
)
def test_options_that_cannot_be_meant(run, options, sentence):
    assert refused(run, **options) == sentence
    assert not (run.folder / "certificate.json").exists()


def test_weights_that_are_no_numbers_are_named(run):
    file = run.folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("backbone") and name.endswith("weight"))
    weights[name][0, 0] = torch.inf
    save_file(weights, file)
    description = json.loads((run.folder / "model.json").read_text())
    description["digest"] = sha256(file.read_bytes()).hexdigest()
    (run.folder / "model.json").write_text(json.dumps(description))
    assert f"numbers in {name} are not finite" in refused(run)


def test_an_operator_without_bounds_is_named(tmp_path, monkeypatch):
    (tmp_path / "certify_nets.py").write_text(
        "from torch import nn\n\n\ndef soft():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Hardshrink(), nn.Linear(8, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    sentence = refused("certify_nets:soft", data="digits")
    sys.modules.pop("certify_nets")
    assert sentence.startswith("certify_nets:soft: 2: no bounds for Hardshrink")


# --- crashes ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import torch
from overproof.evaluation import store
from overproof.commands.certify import iter_certify

torch.set_num_threads(1)
store._PATIENCE = 0
events = iter_certify(sys.argv[1], examples=50, batch=20, eps="0.02", bound="crown", device="cpu")
for number, _ in enumerate(events, 1):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def timeless(found):
    """Return a found tree without what no two runs share: how long it took."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name != "seconds"}
    return [timeless(value) for value in found] if isinstance(found, list) else found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_within_a_radius_of_zero_every_right_prediction_is_proved(run, norm):
    found = certify(run, eps="0", norm=norm, examples=40, seconds=0.5)
    clean = evaluate(run, eps="0", norm=norm, examples=40)["clean"]
    assert found["threat"] == {"norm": norm, "eps": "0"}
    assert found["counts"] == {
        "verified": clean["passed"],
        "falsified": 0,
        "wrong": 40 - clean["passed"],
        "unknown": 0,
        "error": 0,
    }
    assert found["clean"]["passed"] == clean["passed"]


def test_in_float64_of_one_network(run, capsys):
    found = certify(run, examples=20, bound="crown", precision="float64")
    plain = certify(run, examples=20, bound="crown")
    assert (found["precision"], plain["precision"]) == ("float64", "float32")
    assert found["counts"] == plain["counts"]
    assert "float64 is for bounds of one network" in refused(run, precision="float64", smoothing=0.1, norm="l2")
    assert "precision is float32 or float64" in refused(run, precision="half")


def test_killed_in_the_middle_and_resumed_it_finds_the_same(run):
    options = {"examples": 50, "batch": 20, "bound": "crown"}
    whole, examples = certify(run, **options), lines(run)
    shutil.rmtree(place := newest(run))
    for name in ("certificate.json", "certificate.jsonl"):
        (run.folder / name).unlink()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run.folder), "14"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -9, killed.stderr
    state = place / "certificate-state"
    assert len(list(state.iterdir())) == 3
    assert refused(run, **options).startswith(f"{state}: this was begun and is unfinished; --resume continues it")
    assert "has another batch (20, now 7)" in refused(run, **{**options, "batch": 7}, resume=True)
    certify(run, **{**options, "examples": 3})  # another question waits for nothing
    assert timeless(certify(run, **options, resume=True)) == timeless(whole)
    assert timeless(lines(run)) == timeless(examples)
    assert not state.exists()
