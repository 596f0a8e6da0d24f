"""A network in memory and tensors, evaluated and certified as a run is."""

import json
import shutil

import pytest
import torch
from torch import nn

import overproof
from overproof.attacks import AutoAttack
from overproof.bounds import certify
from overproof.errors import InputError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture
def x():
    return torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def labels(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_figures_as_of_a_run_and_as_autoattack_gives(finished, here):
    """One network three ways: its run, its module with the same images, and ``AutoAttack``."""
    run = finished()
    of_run = overproof.evaluate(run, attacks="quick", eps="0.1", examples=60, out=here / "run", device="cpu")
    model, _ = run.model()
    lines = [json.loads(line) for line in (here / "run" / "examples.jsonl").read_text().splitlines()]
    images = run.recipe().data.load("test")
    rows = torch.tensor([line["index"] for line in lines])
    x, y = images.images[rows].float() / 255, images.labels[rows]
    of_module = overproof.evaluate(model, data=(x, y), eps="0.1", attacks="quick", device="cpu")
    result = AutoAttack(model, eps="0.1", suite="quick").evaluate(x, y)
    assert set(of_module) == set(of_run)
    for name in ("clean", "worst"):
        assert of_module[name]["passed"] == of_run[name]["passed"]
    for name, one in of_run["attacks"].items():
        assert of_module["attacks"][name]["passed"] == one["passed"] == result.attacks[name].passed
        assert of_module["attacks"][name]["forward"] == one["forward"]
    assert result.robust_accuracy == of_run["worst"]["share"]
    assert result.misclassified_by == [line["broken_by"] for line in lines]
    assert result.verdicts.predictions.tolist() == [line["prediction"] for line in lines]
    assert sorted(path.name for path in here.iterdir()) == ["run"]


def test_certificates_of_a_run_and_of_its_module(finished, here):
    run = finished()
    given = {"eps": "0.02", "bound": "crown", "device": "cpu"}
    of_run = overproof.certify(run, examples=20, out=here / "run", **given)
    model, _ = run.model()
    lines = [json.loads(line) for line in (here / "run" / "certificate.jsonl").read_text().splitlines()]
    images = run.recipe().data.load("test")
    rows = torch.tensor([line["index"] for line in lines])
    x, y = images.images[rows].float() / 255, images.labels[rows]
    of_module = overproof.certify(model, data=(x, y), **given)
    result = certify(model, x, y, eps="0.02", bound="crown")
    assert set(of_module) == set(of_run) and of_module["counts"] == of_run["counts"]
    assert result.verdicts == [line["verdict"] for line in lines]
    assert [record["by"] for record in result.records()] == [line["by"] for line in lines]


def test_nothing_is_written_unless_asked(x, here, modes):
    model = network().train()
    y, was, generator = labels(model, x), modes(model), torch.get_rng_state()
    found = overproof.evaluate(model, data=(x, y), eps="8/255", attacks="fgsm")
    assert list(here.iterdir()) == [] and modes(model) == was and torch.equal(torch.get_rng_state(), generator)
    assert found["clean"]["share"] == 1 and found["architecture"] == "Sequential" and found["parameters"] == 1210
    again = overproof.evaluate(model, data=(x, y), eps="8/255", attacks="fgsm", out="results")
    assert again["worst"]["passed"] == found["worst"]["passed"]
    assert json.loads((here / "results" / "evaluation.json").read_text())["worst"] == again["worst"]
    assert overproof.certify(model, data=(x, y), eps="1/255", bound="ibp")["clean"]["passed"] == 30
    assert [path.name for path in here.iterdir()] == ["results"]


def test_bytes_and_norms_as_others_write_them(x, here):
    model = network()
    images = (x * 255).byte()
    y = labels(model, images.float() / 255)
    found = overproof.evaluate(model, data=(images, y), norm="L2", eps="0.5", attacks="fgsm")
    assert found["clean"]["share"] == 1 and found["threat"] == {"norm": "l2", "eps": "0.5"}


def test_a_source_by_its_word(here):
    found = overproof.evaluate(network(), data="digits", eps="8/255", attacks="fgsm", examples=20)
    assert found["data"]["name"] == "digits" and found["worst"]["of"] == 20


def test_bad_input_is_one_sentence(x, here, finished):
    model = network()
    y = labels(model, x)
    for subject, options, sentence in (
        (model, {}, r"Sequential: say on which images, with data=\(x, y\)"),
        (model, {"data": (x,)}, r"data is \(x, y\)"),
        (model, {"data": (x, y.float())}, "labels must be integers"),
        (model, {"data": (x * 255, y)}, "divide by 255"),
        (model, {"data": (x, y + 90)}, "outside 0..9"),
        (model, {"data": (x, y), "attacks": "standrad"}, "did you mean 'standard'"),
        (model, {"data": (x, y), "norm": "l7"}, "there is no norm"),
        (model, {"data": (x, y), "save_adversarial": True}, "save_adversarial needs a folder"),
        (model, {"data": (x, y), "resume": True}, "resume needs a folder"),
        (finished(), {"data": (x, y)}, "images as tensors are for a network in memory"),
        ([1], {"data": (x, y)}, "a network is an nn.Module, a Run, .* got an object of type list"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), {"data": "digits"}, "for 1x8x8, 5 classes, the data are"),
    ):
        with pytest.raises(InputError, match=sentence) as found:
            overproof.evaluate(subject, **{"eps": "8/255", "attacks": "fgsm", **options})
        assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="Hardshrink"):
        overproof.certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Hardshrink()), data=(x, y), eps="1/255")


def test_strings_are_paths(finished, here):
    run = finished()
    assert overproof.Run(str(run.folder)) == run
    shutil.copytree(run.folder, here / "own")
    overproof.evaluate("own", attacks="fgsm", examples=10, device="cpu")
    overproof.evaluate("own", attacks="fgsm", examples=10, device="cpu", out="evaluated")
    assert (here / "own" / "evaluation.json").is_file() and (here / "evaluated" / "evaluation.json").is_file()
    assert overproof.read("own/recipe.yaml") == run.recipe()
    overproof.compare(["own"], out="page.html", csv="table.csv")
    assert (here / "page.html").is_file() and (here / "table.csv").is_file()


def test_a_module_of_float64_is_certified_in_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.rand(12, 1, 4, 4, dtype=torch.float64)
    found = overproof.certify(model, data=(x, model(x).argmax(dim=1)), eps="0.001", seconds=5.0)
    assert found["precision"] == "float64" and found["counts"]["verified"] > 6
