import json
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models.external.checkpoints import (
    MEAN,
    STD,
    hub,
    madry,
    robustbench,
    safetensors_cut,
    saved,
    trades,
    with_code,
)

import overproof
from overproof.commands.evaluate import evaluate
from overproof.commands.import_teacher import import_teacher
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.models.architectures.catalogue import NAMED
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.external.imports import import_named
from overproof.models.weights import build
from overproof.runs.resolve import resolve
from overproof.signature import Signature

SIZE = Signature(channels=3, height=16, width=16, classes=10)
THIN = ResNet(depth=20, width=0.25)
WORDS = "{kind: resnet, depth: 20, width: 0.25}"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = build(THIN, SIZE).backbone
    with torch.no_grad():
        made(torch.rand(8, 3, 16, 16))
    return made.eval()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def brought(file, **options):
    return import_teacher(file, **{"model": WORDS, "size": (3, 16, 16), **options})


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        brought(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what comes in ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_run_that_gives_the_same_logits(network, here):
    file = saved({"net": network.state_dict(), "epoch": 3}, here / "epoch=199.t7")
    run = brought(file, classes=10, digest=sha256(file.read_bytes()).hexdigest())
    assert run.folder.as_posix() == "runs/epoch=199"
    assert {each.name for each in run.folder.iterdir()} == {"model.json", "model.safetensors"}
    x = torch.rand(4, 3, 16, 16)
    assert (overproof.load(run.folder)(x) - network(x)).abs().max() <= 1e-6
    description = run.description()
    assert description["classes"] == []
    assert description["imported"] == {
        "file": "epoch=199.t7",
        "sha256": sha256(file.read_bytes()).hexdigest(),
        "place": "net",
        "prefix": "",
        "unused": [],
        "data": None,
    }


@pytest.mark.parametrize("write", [madry, robustbench, hub], ids=["layer", "buffers", "config.json"])
def test_a_normalisation_in_the_file_or_beside_it_is_used(write, network, here):
    for options in ({}, {"mean": MEAN, "std": STD}):
        model = brought(write(network, here), out=here / f"run{len(options)}", **options).model()[0]
        x = torch.rand(2, 3, 16, 16)
        mean, std = (torch.tensor(part)[None, :, None, None] for part in (MEAN, STD))
        assert (model(x) - network((x - mean) / std)).abs().max() <= 1e-5
        assert model.normalises


def test_a_given_normalisation_is_used(network, here):
    model = brought(saved(network.state_dict(), here / "x.pt"), mean=MEAN, std=STD).model()[0]
    assert model.mean.flatten().tolist() == pytest.approx(MEAN)


def test_two_normalisations_that_differ_are_refused_with_both(network, here):
    told = refused(robustbench(network, here), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert "--mean and --std (0.5, 0.5, 0.5 / 0.25, 0.25, 0.25) and the file's own normalising layer (0.4914, " in told
    assert told.endswith("contradict each other")
    assert not (here / "runs").exists()


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory):
    """Return a file of a network that learnt the digits, as somebody else would have saved it."""
    images = Digits().load("train")
    x, y = images.images.float() / 255, images.labels
    torch.manual_seed(0)
    network = build(MLP(hidden=(16,)), images.signature)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    file = tmp_path_factory.mktemp("files") / "digits.pt"
    return saved({"state_dict": {f"module.{k}": v for k, v in network.backbone.state_dict().items()}}, file)


def digits_teacher(file, **options):
    return import_teacher(file, model="{kind: mlp, hidden: [16]}", size=(1, 8, 8), **options)


def test_an_imported_run_is_evaluated_on_its_images(digits_file, here):
    run = digits_teacher(digits_file, data="digits")
    assert run.description()["classes"] == list("0123456789")
    found = evaluate(run, attacks=("apgd-ce-20",), eps="0.1", examples=40, device="cpu")
    assert found["method"] == "imported" and found["run"] == "digits" and found["selected_on"] == "unknown"
    assert found["clean"]["share"] > 0.8
    assert json.loads((run.folder / "evaluation.json").read_text()) == found


def test_without_its_images_they_are_asked_for(digits_file, here):
    run = digits_teacher(digits_file)
    with pytest.raises(InputError, match="say on which images, with --data digits, --data ylecun/mnist or a path"):
        evaluate(run, device="cpu")
    assert evaluate(run, data="digits", eps=0, examples=20, device="cpu")["clean"]["of"] == 20


@pytest.mark.parametrize("named", [True, False], ids=["classes-named", "classes-unnamed"])
def test_an_imported_run_teaches(named, digits_file, toy, here):
    run = digits_teacher(digits_file, data="digits" if named else None)
    edits = ("method={kind: rslad, inner: {steps: 1}}", "training.epochs=1", f"teachers.robust={run.folder}")
    assert train(toy(*edits), here / "student", device="cpu").metrics()


# --- what does not ----------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_file_leaves_no_folder(network, here):
    canary = here / "canary"
    whole = saved(network.state_dict(), here / "whole.pt").read_bytes()
    (here / "page.pt").write_text("<!DOCTYPE html><title>Google Drive - Virus scan warning</title>")
    (here / "cut.pt").write_bytes(whole[:2000])
    with_code(here / "code.pt", canary)
    safetensors_cut(here / "cut.safetensors")
    told = {file: refused(here / file) for file in ("page.pt", "cut.pt", "code.pt", "cut.safetensors", "nowhere.pt")}
    assert "page.pt: this is a web page, not a network: the link leads to a page" in told["page.pt"]
    assert told["cut.pt"].endswith("cut.pt: damaged or cut off; fetch it again")
    assert "code.pt: refused, and nothing of it was run: it holds more than tensors (exec)" in told["code.pt"]
    assert "damaged or cut off" in told["cut.safetensors"]
    assert told["nowhere.pt"].endswith("nowhere.pt: there is no such file")
    assert "whole.pt: this is another file: its SHA-256 is " in refused(here / "whole.pt", digest="0" * 64)
    assert not canary.exists() and not (here / "runs").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mean": 5, "std": [1]}, "not readable as the mean of a normalisation"),
        ({"pretrained_cfg": [1], "mean": {"a": 1}}, ""),
        ({"mean": ["a"], "std": [1]}, "not readable as the mean of a normalisation"),
        ({"mean": [0.5, None, 1], "std": [1, 1, 1]}, "not readable as the mean of a normalisation"),
        ({"mean": [10**400] * 3, "std": [1, 1, 1]}, "not readable as the mean of a normalisation"),
        ({"mean": [float("nan")] * 3, "std": [1, 1, 1]}, "not finite"),
        ({"mean": [0.5] * 3, "std": [0, 0, 0]}, "std must be positive"),
    ],
)
def test_a_strange_normalisation_beside_a_file_is_one_sentence(config, words, network, here):
    save_file({name: value.clone() for name, value in network.state_dict().items()}, here / "model.safetensors")
    (here / "config.json").write_text(json.dumps(config))
    if words:
        assert words in refused(here / "model.safetensors")
    else:  # a form that is not timm's says nothing of a normalisation
        assert brought(here / "model.safetensors").folder.is_dir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.weight": torch.zeros(0, 16)}, "is for no class at all"),
        ({"fc.weight": torch.zeros(())}, "of another shape"),
        ({"fc.weight": torch.zeros(1, 16).expand(10, 16)[:, :1]}, "of another shape"),
        ({"fc.weight": torch.zeros(10, 16).to_sparse()}, "missing (fc.weight)"),
        ({"fc.weight": torch.zeros(10, 16, dtype=torch.complex64)}, "missing (fc.weight)"),
        ({"fc.weight": torch.zeros(10, 16, device="meta")}, "missing (fc.weight)"),
        ({"x" * 999: torch.zeros(1)}, "1 belong to nothing (xxx"),
        ({"a\nb\x1b[31m": torch.zeros(1)}, "1 belong to nothing (a b\\x1b[31m)"),
    ],
    ids=["no-class", "0-d", "strided", "sparse", "complex", "meta", "long", "escape"],
)
def test_strange_tensors_are_one_sentence(change, words, network, here):
    told = refused(saved({**network.state_dict(), **change}, here / "x.pt"))
    assert words in told
    assert len(told) < 1000


def test_another_network_is_told_in_words_with_the_file(network, here):
    file = saved(network.state_dict(), here / "x.pt")
    told = refused(file, model="{kind: resnet, depth: 32, width: 0.25}")
    assert told.startswith(f"{file}: it is no resnet: 60 of 200 tensors are missing (layer1.3.conv1.weight, ")
    assert refused(file, classes=100) == f"{file}: its last layer (fc.weight) is for 10 classes, not 100"
    told = refused(trades(network, here), model="wrn-34-1O")
    assert told == "--model: there is no network named 'wrn-34-1O'; the nearest name is 'wrn-34-10'"
    assert refused(file, model="timm:resnet18") == (
        "--model timm:resnet18: a zoo's networks need no import; write timm:resnet18 where a teacher is named, or a "
        "factory of your own that makes one for weights of yours"
    )
    assert refused(file, model="{kind: resnet, depth: 19}").startswith("--model: a resnet has depth 18")
    assert refused(file, model="{").startswith("--model {: not readable as YAML")
    assert "mean and std need one number per channel (3)" in refused(file, mean=(0.5,), std=(0.5,))
    assert not (here / "runs").exists()


def test_the_data_must_have_as_many_classes(network, here, squares):
    file = saved(network.state_dict(), here / "x.pt")
    images = np.zeros((14, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(14) % 7
    np.savez(here / "seven.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert refused(file, data=str(here / "seven.npz")).endswith("x.pt: it is for 10 classes, seven has 7")
    assert not (here / "runs").exists()


def test_a_run_is_never_overwritten(network, here):
    file = saved(network.state_dict(), here / "x.pt")
    run = brought(file)
    before = (run.folder / "model.safetensors").read_bytes()
    assert refused(file) == "runs/x: exists already; choose another --out"
    assert (run.folder / "model.safetensors").read_bytes() == before
    assert refused(file, out=file) == f"{file}: exists already; choose another --out"


# --- what is recognised, and code of one's own ------------------------------------------------------------------------

CHAIN = "nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)"
CODE = f"""
from torch import nn


def chain(bias=True):
    return nn.Sequential({CHAIN})


class Net(nn.Module):
    def __init__(self, num_classes, width=3):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3)
        self.norm = nn.InstanceNorm2d(width)
        self.out = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.out(self.norm(self.a(x)).relu().amax((2, 3)) + self.a(x).amax((2, 3)))
"""


@pytest.fixture
def code(here, monkeypatch):
    """Return the name of a module of the user's own in the current folder."""
    (here / "own_networks.py").write_text(CODE)
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def test_a_chain_is_recognised_and_is_a_run_like_any_other(code, here):
    network = import_named(f"{code}:chain")()
    tree = {"state_dict": [network.state_dict()], "acc": torch.tensor(960), "epoch": 3}
    run = brought(saved(tree, here / "x.pth"), model="auto", mean=MEAN, std=STD)
    x = torch.rand(4, 3, 16, 16)
    mean, std = (torch.tensor(part)[None, :, None, None] for part in (MEAN, STD))
    # Two orders of adding up 256 products of float32 and dividing by std: some units in the last place.
    assert (overproof.load(run.folder)(x) - network((x - mean) / std)).abs().max() <= 1e-5
    assert run.description()["architecture"] == {
        "kind": "convnet",
        "channels": [4],
        "kernel": [4],
        "stride": [2],
        "padding": [1],
        "hidden": [],
    }
    assert run.description()["imported"]["place"] == "state_dict"
    word = f"{here / 'x.pth'}?model=auto"
    assert torch.equal(resolve(word, SIZE).model(x), brought(here / "x.pth", model="auto", out="b").model()[0](x))


def test_a_named_network_is_recognised(here):
    made = build(NAMED["resnet20"], replace(SIZE, classes=7)).backbone
    file = saved({"net": made.state_dict()}, here / "x.pt")
    assert brought(file, model="auto").description()["architecture"]["depth"] == 20


def test_a_residual_network_without_batchnorm_is_recognised(here):
    made = PlainResNet(hidden=(9,)).build(SIZE)
    file = saved({"state_dict": made.state_dict(), "test_acc": 0.6925}, here / "x.pth")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(brought(file, model="auto").model()[0](x), made.eval()(x))
    made = PlainResNet(channels=(16, 20), blocks=(1, 1), stride=(2, 1)).build(SIZE)
    told = refused(saved(made.state_dict(), here / "y.pth"), model="auto")
    assert "y.pth: several networks fit its tensors; choose with --model '{kind: plain_resnet, stem: 8, stem_s" in told
    choice = told.split("'")[1]
    assert brought(here / "y.pth", model=choice).folder.is_dir()


def test_where_several_fit_the_sentence_says_how_to_choose(here):
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 4, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2, 1), torch.nn.ReLU()),
        *(torch.nn.Flatten(), torch.nn.Linear(256, 10)),
    )
    file = saved(network.state_dict(), here / "x.pt")
    told = refused(file, model="auto")
    choice = "chain?stride=1,2&padding=1,1"
    assert told.startswith(f"{file}: several networks fit its tensors; choose with --model '{choice}' or 'chain?")
    x = torch.rand(2, 3, 16, 16)
    model = brought(file, model=choice).model()[0]
    assert (model(x) - network(x)).abs().max() <= 1e-5
    word = f"{file}?model=chain&stride=1,2&padding=1"
    assert torch.equal(resolve(word, SIZE).model(x), model(x))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("auto?stride=2", "--model auto: it takes no options; chain takes stride and padding"),
        ("chain?kernel=2", "--model chain: it takes no 'kernel'"),
        ("chain?stride=a", "--model chain: stride=a: write whole numbers, one for each convolution, such as 2,2"),
        ("chain?stride=-1", "--model chain: stride=-1: write whole numbers"),
        ("chain?stride=0", "stride of a chain must be at least 1"),
        ("chain?stride", "--model chain: options are written ?name=value&name=value"),
    ],
)
def test_what_is_wrong_with_the_word_is_one_sentence(model, sentence, network, here):
    assert sentence in refused(saved(network.state_dict(), here / "x.pt"), model=model)


def test_code_of_ones_own_takes_its_weights_strictly(code, here):
    network = import_named(f"{code}:Net")(num_classes=6, width=5)
    file = saved({"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, here / "x.pt")
    run = brought(file, model=f"{code}:Net?width=5")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(run.model()[0](x), network.eval()(x))
    assert run.description()["signature"]["classes"] == 6
    word = f"{file}?model={code}:Net&width=5"
    assert torch.equal(resolve(word, replace(SIZE, classes=6)).model(x), network(x))
    state = network.state_dict()
    told = refused(saved({**state, "extra": torch.ones(2)}, here / "y.pt"), model=f"{code}:Net?width=5")
    assert told.endswith(f"it is no {code}:Net?width=5: 1 belong to nothing (extra)")
    missing = saved({name: value for name, value in state.items() if name != "a.bias"}, here / "z.pt")
    told = refused(missing, model=f"{code}:Net?width=5")
    assert told.endswith("1 of 4 tensors are missing (a.bias)")
    told = refused(file, model=f"{code}:Net", out="b")
    assert "are of another shape (module.a.weight is [5, 3, 3, 3] where [3, 3, 3, 3] is needed)" in told
    assert refused(file, model=f"{code}:nets", out="b").startswith(f"{file}: {code}:nets: own_networks has no 'nets'")
    told = refused(file, model=f"{code}:Net?width=5", classes=7, out="b")
    assert told.endswith("2 are of another shape (module.out.weight is [6, 5] where [7, 5] is needed)")


def test_code_that_has_a_fixed_number_of_classes(code, here):
    network = import_named(f"{code}:chain")()
    file = saved(network.state_dict(), here / "x.pt")
    assert brought(file, model=f"{code}:chain").description()["signature"]["classes"] == 10
    assert "of 2 images, the data have 7 classes" in refused(file, model=f"{code}:chain", classes=7, out="b")


@pytest.mark.parametrize("model", ["auto", "chain"])
def test_what_no_chain_holds_is_one_sentence(model, here):
    for tree, sentence in (
        ({"acc": torch.tensor(3), "epoch": 4}, "it holds no weights of layers"),
        ([1, 2, 3], "it holds no weights of layers"),
        (torch.nn.LSTM(3, 4).state_dict(), "it is a recurrent network"),
    ):
        assert sentence in refused(saved(tree, here / "x.pt"), model=model)
