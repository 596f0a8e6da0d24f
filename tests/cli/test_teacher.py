import pytest
import torch
from tests.models.external.checkpoints import saved, with_code
from torch import nn

from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.signature import Signature

MODEL = "{kind: mlp, hidden: [16]}"


@pytest.fixture
def file(toy_run, tmp_path):
    """Return a run's weights as another code would have saved them."""
    weights = torch.load(next((toy_run / "checkpoint").glob("*.pt")), weights_only=True)["student"]
    own = {f"module.{name.removeprefix('backbone.')}": value for name, value in weights.items() if "backbone" in name}
    return saved({"net": own}, tmp_path / "teacher.t7")


def test_a_file_is_imported_and_checked(run_cli, file, tmp_path):
    out = tmp_path / "run"
    words = ("teacher", "import", file, "--model", MODEL, "--data", "digits", "--out", out)
    code, said, err = run_cli(*words)
    assert (code, err) == (0, "")
    assert said.splitlines() == [
        "weights: 1,210 parameters, found under net.module",
        "images: 1x8x8, 10 classes",
        "normalisation: none, it gets pixels in [0, 1]",
        f"run folder: {out}; check it with: overproof teacher check {out}",
    ]
    code, said, _ = run_cli("teacher", "check", out, "--eps", "0.05", "--examples", "50", "--device", "cpu")
    assert code == 0
    assert "run; digits, 50 of 360 test images" in said
    for name in ("clean, % correct", "quick attack, linf eps 0.05", "pixels as 0..255", "best order of classes"):
        assert name in said
    assert said.splitlines()[-1].split(":")[0] in ("fit", "doubtful", "unfit")
    assert (out / "teacher.json").is_file()


def test_a_network_without_named_classes_and_with_a_normalisation_says_so(run_cli, tmp_path):
    network = build(MLP(hidden=(3,)), Signature(channels=3, height=4, width=4, classes=5)).backbone
    file = saved(network.state_dict(), tmp_path / "x.pt")
    options = ("--model", "{kind: mlp, hidden: [3]}", "--size", "3x4x4", "--mean", "0.5,0.5,0.5", "--std", "1,1,2")
    code, said, _ = run_cli("teacher", "import", file, *options, "--out", tmp_path / "run")
    assert code == 0
    assert "normalisation: mean 0.5, 0.5, 0.5, std 1, 1, 2" in said
    assert "its classes have no names" in said


def test_what_is_recognised_is_shown(run_cli, refused, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    file = saved({"state_dict": [network.state_dict()], "acc": 3}, tmp_path / "x.pt")
    code, said, err = run_cli(
        *("teacher", "import", file, "--model", "auto", "--size", "3x16x16"), "--out", tmp_path / "r"
    )
    assert (code, err) == (0, "")
    architecture = "{kind: convnet, channels: [4], kernel: [4], stride: [2], padding: [1], hidden: []}"
    assert said.splitlines()[:2] == [
        f"recognised as: {architecture}",
        "weights: 1,481 parameters, found under state_dict",
    ]
    told = refused("teacher", "import", file, "--model", "auto", "--size", "3x64x64", "--out", tmp_path / "s")
    assert "to which no strides and paddings of its convolutions lead from images of 3x64x64" in told
    assert "it takes no 'pad'" in refused("teacher", "import", file, "--model", "chain?pad=1")


def test_bad_input_is_one_sentence_and_status_2(refused, file, tmp_path):
    canary = tmp_path / "canary"
    code = with_code(tmp_path / "code.pt", canary)
    assert "refused, and nothing of it was run" in refused("teacher", "import", code, "--model", MODEL)
    assert not canary.exists()
    told = refused("teacher", "import", file, "--model", MODEL, "--mean", "a,b")
    assert told == "--mean a,b: write one number per channel, such as 0.49,0.48,0.45"
    told = refused("teacher", "import", file, "--model", MODEL, "--size", "32")
    assert told == "--size 32: write channels, height and width, such as 3x32x32"
    assert "--model: there is no network named" in refused("teacher", "import", file, "--model", "resnet19")
    assert "it is no mlp: " in refused("teacher", "import", file, "--model", MODEL)  # 3x32x32 is not 1x8x8
    assert refused("teacher", "check", tmp_path / "nowhere").endswith("no such run folder")


def test_the_words_are_explained(run_cli):
    code, said, _ = run_cli("teacher", "import", "--help")
    assert code == 0 and "without running anything in it" in said
