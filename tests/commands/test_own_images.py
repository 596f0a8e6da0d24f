"""The recipes for one's own images, a short run of each on generated ones; pretrained weights are stand-ins."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from overproof.commands.train import iter_train, train
from overproof.recipe import read
from overproof.runs.summary import Beginning
from overproof.shipped import find_recipe, recipe_names

SHORT = (
    "training.epochs=1",
    "training.batch=8",
    "training.warmup=0",
    "training.precision=fp32",
    "method.inner.steps=1",
    "selection.examples=4",
    "selection.trial.attack.steps=1",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three unequal classes of bright, dark and striped images of several sizes."""
    root, draws = tmp_path_factory.mktemp("own") / "photos", np.random.default_rng(0)
    for split, counts in (("train", (16, 8, 4)), ("test", (2, 2, 2))):
        for name, count, low, high in zip("abc", counts, (150, 0, 0), (256, 100, 256), strict=True):
            for number in range(count):
                file = root / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = draws.integers(low, high, (20 + number, 24, 3), dtype=np.uint8)
                Image.fromarray(noise).save(file)
    return root


def short(name, folder, *edits):
    return read(find_recipe(f"own-images/{name}"), [*SHORT, f"data.path={folder}", *edits])


def test_there_is_a_run_of_each():
    names = {name.removeprefix("own-images/") for name in recipe_names() if name.startswith("own-images/")}
    assert names == {"at-64", "finetune-64", "finetune-224", "distil-64", "fare-224"}


def test_at_64(folder, tmp_path):
    run = train(short("at-64", folder), tmp_path / "run", device="cpu")
    description = json.loads((run.folder / "model.json").read_text())
    assert description["signature"] == {"channels": 3, "height": 64, "width": 64, "classes": 3}
    assert len(description["normalisation"]["mean"]) == 3


def test_fare_224(folder, tmp_path):
    """An encoder that is kept where it was: its head is frozen and ends as it began."""
    small = ("student={kind: convnet, channels: [4], kernel: 3, stride: 2, hidden: [8]}", "data.form.size=64")
    original = train(short("at-64", folder, *small), tmp_path / "original", device="cpu")
    edits = (f"teachers.clean={original.folder}", "training.optimiser.lr=0.01", "training.freeze=[fc2.*]")
    run = train(short("fare-224", folder, *small, *edits), tmp_path / "run", device="cpu")
    before, after = (one.model("last")[0].state_dict() for one in (original, run))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"backbone.{layer}.{part}" for layer in ("conv1", "fc1") for part in ("weight", "bias")}


class TestPretrained:
    @pytest.fixture
    def pretrained(self, monkeypatch):
        """Let timm give a network of seed 9, of its usual thousand classes, for one that it would download."""
        timm = pytest.importorskip("timm")
        create, made = timm.create_model, {}

        def create_model(name, pretrained=False, **words):
            if not pretrained:
                return create(name, pretrained=False, **words)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(9)
                made[name] = create(name, pretrained=False, **words)
            made[name].pretrained_cfg |= {"mean": MEAN, "std": STD}
            return made[name]

        monkeypatch.setattr(timm, "create_model", create_model)
        return made

    @pytest.mark.parametrize("name", ["finetune-64", "finetune-224"])
    def test_fine_tuning(self, folder, tmp_path, pretrained, name):
        events = iter_train(short(name, folder), tmp_path / "run", device="cpu")
        (line,) = (
            line
            for event in events
            if isinstance(event, Beginning)
            for line in event.lines
            if line.startswith("init: ")
        )
        assert line.endswith("tensors taken over; newly made: classifier.weight, classifier.bias")
        description = json.loads((tmp_path / "run" / "last.json").read_text())
        assert description["normalisation"]["mean"] == pytest.approx(MEAN)
        assert description["init"]["made"] == ["classifier.weight", "classifier.bias"]
        found = load_file(tmp_path / "run" / "last.safetensors")
        (network,) = pretrained.values()
        for part, value in network.state_dict().items():
            if part.startswith(("conv_stem.", "bn1.")):
                assert torch.equal(found[f"backbone.{part}"], value) == (name == "finetune-224"), part

    def test_and_a_vit_learns_from_one(self, folder, tmp_path, pretrained):
        teacher = train(short("finetune-64", folder), tmp_path / "teacher", device="cpu")
        recipe = short("distil-64", folder, f"teachers.robust={teacher.folder}", "student.depth=1")
        run = train(recipe, tmp_path / "run", device="cpu")
        assert json.loads((run.folder / "model.json").read_text())["architecture"]["factory"].startswith(
            "timm:vit_tiny"
        )
        assert run.metrics()[0]["terms"]
