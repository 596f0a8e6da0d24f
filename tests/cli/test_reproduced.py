"""The commands that a page prints are run as they are printed, and give the same figures."""

import json
import shlex
import sys
from pathlib import Path
from textwrap import dedent

import huggingface_hub.constants
import pytest
import torch
import yaml
from tests.formats.fake_hub import FakeHub, serving
from torch import nn

import overproof
from overproof.commands.compare import write_report
from overproof.formats.hub import write_repository
from overproof.report.provenance import commands, missing
from overproof.runs.reader import findings

NETS = """
    import torch
    from torch import nn

    def make(width=16):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
OF_A_RUN = ("run", "model_digest", "parameters")


@pytest.fixture
def here(toy_run, tmp_path, monkeypatch):
    """A current folder with a run in ``runs/toy`` and a module; that is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    toy_run.rename("runs/toy")
    Path("reproduced_nets.py").write_text(dedent(NETS))
    yield tmp_path
    sys.modules.pop("reproduced_nets", None)


def figures(folder, name="evaluation.json"):
    """Return what a result says but for times, the call itself and what is called after a folder."""

    def kept(value):
        if isinstance(value, dict):
            changing = {"seconds", "hardware", "versions", "latency", "call", "file", "name"}
            return {key: kept(part) for key, part in value.items() if key not in changing}
        return [kept(part) for part in value] if isinstance(value, list) else value

    return kept(json.loads((Path(folder) / name).read_text()))


@pytest.fixture
def again(run_cli):
    """Return a function: what is printed about a folder of results is done; the words of the commands."""

    def make(folder, *results, place=None):
        printed = [shlex.split(line) for line in commands(findings(Path(folder)))]
        for words in printed:
            assert words[0] == "overproof"
            code, _, err = run_cli(*words[1:])
            assert code == 0, err
        place = place or f"{folder}-again"
        for name in results or ("evaluation.json",):
            assert figures(place, name) == figures(folder, name)
        return [words[1:] for words in printed]

    return make


def test_of_a_trained_run_with_every_option(run_cli, here, again):
    Path("own.yaml").write_text("name: own\nattacks: [{name: mine, attack: {steps: 3}}]\n")
    words = ["--attacks", "own.yaml", "--eps", "0.05", "--examples", "40", "--seed", "2", "--batch", "7"]
    words += [
        "--precision",
        "fp32",
        "--no-reliability",
        "--save-adversarial",
        "--teacher",
        "runs/toy",
        "--device",
        "cpu",
    ]
    assert run_cli("evaluate", "runs/toy", *words, "--data", "{kind: digits}", "--classes-by-position")[0] == 0
    proof = [
        "--eps",
        "0.01",
        "--bound",
        "crown",
        "--examples",
        "15",
        "--gamma",
        "0.3",
        "--seconds",
        "30",
        "--batch",
        "9",
    ]
    assert run_cli("certify", "runs/toy", *proof, "--teacher", "runs/toy", "--device", "cpu")[0] == 0
    train, evaluate, certify = again("runs/toy", "evaluation.json", "certificate.json")
    assert train == ["train", "runs/toy/recipe.yaml", "--out", "runs/toy-again"]
    assert evaluate[:4] == ["evaluate", "runs/toy-again", "--attacks", "own.yaml"]
    assert certify[:4] == ["certify", "runs/toy-again", "--teacher", "runs/toy"]


def test_of_a_run_that_was_extended(run_cli, here, again):
    recipe = yaml.safe_load(Path("runs/toy/recipe.yaml").read_text())
    recipe["training"]["schedule"] = {"kind": "constant"}
    Path("constant.yaml").write_text(yaml.safe_dump(recipe))
    words = ["train", "constant.yaml", "--out", "runs/longer", "--device", "cpu", "--keep-checkpoint"]
    assert run_cli(*words)[0] == 0
    assert run_cli(*words, "--resume", "--set", "training.epochs=3")[0] == 0
    assert run_cli("evaluate", "runs/longer", "--examples", "30", "--device", "cpu")[0] == 0
    first, then, _ = again("runs/longer")
    assert first[2:4] == ["--set", "training.epochs=2"] and "--resume" in then
    described = [json.loads(Path(f"runs/longer{end}/model.json").read_text()) for end in ("", "-again")]
    assert described[0]["extended_from"] == described[1]["extended_from"] == [2]
    assert described[0]["digest"] == described[1]["digest"]


def test_of_a_run_whose_results_lie_elsewhere(run_cli, here, again):
    assert run_cli("evaluate", "runs/toy", "--examples", "30", "--out", "results", "--device", "cpu")[0] == 0
    ((*words, place),) = again("results")
    assert words[:2] == ["evaluate", "runs/toy"] and place == "results-again"


def test_of_a_factory_with_options(run_cli, here, again):
    word, folder = "reproduced_nets:make?width=12", "evaluations/reproduced-nets-make-width-12"
    asked = ["--data", "digits", "--eps", "0.1", "--examples", "30", "--attacks", "fgsm,square", "--device", "cpu"]
    assert run_cli("evaluate", word, *asked)[0] == 0
    proof = ["--data", "digits", "--eps", "0.01", "--bound", "ibp", "--examples", "15", "--device", "cpu"]
    assert run_cli("certify", word, *proof)[0] == 0
    evaluate, certify = again(folder, "evaluation.json", "certificate.json")
    assert evaluate[1] == certify[1] == word
    lacking = dict(missing(findings(Path(folder))))
    asked = shlex.split(lacking["comparison with the teacher: not run"].replace("RUN", "runs/toy"))
    assert run_cli(*asked[1:], "--examples", "5", "--attacks", "fgsm")[0] == 0
    assert len(list(Path(folder, "evaluations").iterdir())) == 2  # the answer is kept beside the first


def test_of_a_certificate_alone(run_cli, here, again):
    proof = ["--data", "digits", "--norm", "l2", "--eps", "0.1", "--smoothing", "0.25", "--samples", "200"]
    proof = [*proof, "--examples", "10", "--device", "cpu"]
    assert run_cli("certify", "reproduced_nets:make", *proof)[0] == 0
    folder = Path("evaluations/reproduced-nets-make")
    bounds = [
        "--data",
        "digits",
        "--eps",
        "0.01",
        "--bound",
        "ibp",
        "--examples",
        "15",
        "--device",
        "cpu",
        "--overwrite",
    ]
    assert run_cli("certify", "reproduced_nets:make", *bounds)[0] == 0
    (words,) = again(str(folder), "certificate.json")
    assert words[0] == "certify" and "--smoothing" not in words


def test_of_an_exported_file_with_its_original(run_cli, here, again):
    assert run_cli("export", "runs/toy", "--to", "onnx", "--out", "net.onnx")[0] == 0
    asked = ["--examples", "20", "--attacks", "fgsm", "--device", "cpu"]
    code, _, err = run_cli("evaluate", "net.onnx", *asked)
    assert code == 0, err
    asked = ["--examples", "20", "--attacks", "square", "--original", "runs/toy", "--device", "cpu"]
    assert run_cli("evaluate", "net.onnx", *asked)[0] == 0
    (words,) = again("evaluations/net-onnx")
    assert words[1] == "net.onnx" and words[words.index("--original") + 1] == "runs/toy"


def test_of_an_imported_teacher(run_cli, here, again):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 10))
    weights = {
        f"fc{number}.{name}": value for number in (1, 2) for name, value in network[number - 1].state_dict().items()
    }
    torch.save(weights, "weights.pt")
    words = ["--model", "{kind: mlp, hidden: [16]}", "--data", "digits"]
    assert run_cli("teacher", "import", "weights.pt", *words)[0] == 0
    assert run_cli("evaluate", "runs/weights", "--examples", "30", "--device", "cpu")[0] == 0
    (words,) = again("runs/weights")
    assert words[1] == "runs/weights"


def test_of_a_repository_of_the_hub(run_cli, here, again, monkeypatch):
    write_repository(Path("runs/toy"), here / "repository")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here / "cache"))
    hub = FakeHub()
    hub.holds("org/toy", here / "repository")
    with serving(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert run_cli("evaluate", "org/toy", "--examples", "30", "--device", "cpu")[0] == 0
        (words,) = again("evaluations/org-toy")
    digest = json.loads(Path("runs/toy/model.json").read_text())["digest"]
    assert words[1] == f"org/toy#sha256={digest}"


def test_of_a_program(run_cli, here, again):
    assert run_cli("export", "runs/toy", "--to", "torch", "--out", "net.pt2")[0] == 0
    asked = ["--data", "digits", "--eps", "0.1", "--examples", "20", "--trust-code", "--device", "cpu"]
    assert run_cli("evaluate", "net.pt2", *asked)[0] == 0
    (words,) = again("evaluations/net-pt2")
    assert "--trust-code" in words


def test_of_what_no_command_line_can_say_there_is_none(here):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = torch.rand(10, 1, 8, 8), torch.zeros(10, dtype=torch.int64)
    overproof.evaluate(network, data=(x, y), eps="0.1", attacks="fgsm", out="memory", device="cpu", reliability=False)
    assert commands(findings(Path("memory"))) == []
    assert dict(missing(findings(Path("memory"))))["certificate: not run"] == (
        "overproof.certify(network, ..., out='memory') in Python"
    )
    page = write_report(Path("memory")).read_text()
    assert "in Python alone: the network or the images were in the memory of a program" in page
    overproof.evaluate(
        "reproduced_nets:make", data="digits", teacher=network, examples=10, out="beside", reliability=False
    )
    assert commands(findings(Path("beside"))) == []
