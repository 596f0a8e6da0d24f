import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import huggingface_hub.constants
import pytest
import torch
from tests.formats.fake_hub import FakeHub, serving
from torch import nn

from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.hub import write_repository
from overproof.models.classifier import Classifier
from overproof.runs.loaded import digest_of
from overproof.runs.networks import load_other, load_teacher
from overproof.runs.resolve import resolve
from overproof.runs.sources import split_pin
from overproof.signature import Signature

DIGITS = Signature(channels=1, height=8, width=8, classes=10)
DIGEST = "ab" * 32


@pytest.fixture
def run(finished):
    return finished()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the name of a module in the current folder with a network for digits; it is forgotten afterwards."""
    (tmp_path / "network_net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "network_net"
    sys.modules.pop("network_net", None)


@pytest.fixture
def zoos(monkeypatch):
    """Put packages in the place of timm and RobustBench that each know one network for digits."""

    def make(*_, **__):
        torch.manual_seed(3)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        made.pretrained_cfg = {}
        return made

    timm, utilities = ModuleType("timm"), ModuleType("robustbench.utils")
    timm.create_model, utilities.load_model = make, make
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utilities)


@pytest.fixture
def on_hub(run, tmp_path, monkeypatch):
    """Put the run on a Hub on this machine as ``org/toy``."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hub = FakeHub()
    hub.holds("org/toy", write_repository(run.folder, tmp_path / "repository"))
    with serving(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_a_repository_and_a_module_are_networks(run, on_hub, module):
    x = torch.rand(3, 1, 8, 8)
    for word in (run.folder, str(run.folder), "org/toy", "hub:org/toy"):
        found = resolve(word, DIGITS)
        assert torch.equal(found.model(x), run.model()[0](x))
        assert found.digest == run.description()["digest"] == digest_of(found.model)
        assert found.known.classes == tuple("0123456789")
    assert refused(resolve, Path("org/toy"), DIGITS) == "org/toy: no such run folder"  # a path is never looked up
    found = resolve(f"{module}:make", DIGITS)
    assert found.known.classes is None and not found.model.training
    assert found.digest == digest_of(found.model)


@pytest.mark.parametrize("word", ["timm:tiny", "robustbench:Some2023Name", "robustbench:cifar10/L2/Some2023Name"])
def test_the_zoos_names_are_teachers(word, zoos, toy, tmp_path):
    digest = resolve(word, DIGITS).digest
    edits = ("method={kind: ard, inner: {steps: 1}}", "training.epochs=1", f"teachers.robust='{word}#sha256={digest}'")
    run = train(toy(*edits), tmp_path / "run", device="cpu")
    assert run.recipe().teachers == {"robust": f"{word}#sha256={digest}"}
    assert run.description()["teachers"] == {"robust": digest}


def test_a_repository_teaches_as_the_run_does(run, on_hub, toy, tmp_path):
    def taught_by(word):
        edits = ("method={kind: ard, inner: {steps: 1}}", "training.epochs=1", f"teachers.robust='{word}'")
        return train(toy(*edits), tmp_path / re.sub(r"\W", "", word)[-8:], device="cpu").description()["digest"]

    assert taught_by("org/toy") == taught_by(str(run.folder))


# --- pins -------------------------------------------------------------------------------------------------------------


def test_a_pin_is_split_off():
    assert split_pin("runs/a") == ("runs/a", "")
    assert split_pin(f"timm:a.b#sha256={DIGEST.upper()}") == ("timm:a.b", DIGEST)
    assert split_pin("runs/#1") == ("runs/#1", "")


@pytest.mark.parametrize("digest", ["", "ab", DIGEST[:-1], DIGEST + "0", "g" * 64])
def test_half_a_digest_is_no_pin(digest):
    told = refused(split_pin, f"runs/a#sha256={digest}")
    assert told.endswith("a pin is #sha256= and the 64 hexadecimal digits of the SHA-256 of the weights or file")


def test_a_pin_that_holds_changes_nothing_and_one_that_does_not_names_both(run, on_hub, module):
    words = (str(run.folder), "org/toy", f"{module}:make")
    for word in words:
        digest = resolve(word, DIGITS).digest
        assert resolve(f"{word}#sha256={digest}", DIGITS).digest == digest
        assert refused(resolve, f"{word}#sha256={DIGEST}", DIGITS) == (
            f"{word}: this is another network: its SHA-256 is {digest}, the pin says {DIGEST}"
        )


def test_a_teacher_that_was_exchanged_stops_a_run_before_it_begins(run, toy, tmp_path):
    recipe = toy("method={kind: ard}", f"teachers.robust='{run.folder}#sha256={DIGEST}'")
    told = refused(train, recipe, tmp_path / "student")
    assert told.startswith(f"teacher 'robust': {run.folder}: this is another network: its SHA-256 is ")
    assert not (tmp_path / "student").exists()


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_other_images_or_classes_are_refused(run):
    other = Signature(channels=1, height=8, width=8, classes=3)
    assert refused(resolve, run.folder, other) == (
        f"{run.folder}: it is for 1x8x8, 10 classes, the data are 1x8x8, 3 classes"
    )


def test_a_network_whose_classes_nobody_named_may_teach(module):
    assert not any(
        weight.requires_grad for weight in load_teacher("robust", f"{module}:make", Digits().load("train")).parameters()
    )


def test_a_digest_sees_every_weight_and_every_buffer(run):
    first = run.model()[0]
    digests = {digest_of(first)}
    for part in (*first.parameters(), *first.buffers()):
        with torch.no_grad():
            part.view(-1)[0] += 1e-3
        digests.add(digest_of(first))
    assert len(digests) == 1 + len([*first.parameters(), *first.buffers()])
    torch.manual_seed(0)
    norm = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)), DIGITS)
    before = digest_of(norm)
    norm.backbone[1].running_mean[3] = 1
    assert digest_of(norm) != before


def test_another_network_is_put_beside_by_names_or_by_position(run, module, tmp_path):
    images = Digits().load("test")
    swapped = replace(images, classes=tuple("1023456789"))
    assert load_other(run, images).known.title == str(run.folder)
    assert load_other(f"{module}:make", swapped).known.classes is None
    told = refused(load_other, run.folder, swapped)
    assert told.startswith(f"teacher {run.folder} was trained on other classes: its 0 is '0', here it is '1'")
    assert load_other(run.folder, swapped, by_position=True).digest == run.description()["digest"]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert load_other(network, images).known.origin.kind == "in memory"
