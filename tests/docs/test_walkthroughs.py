"""The commands of README and pages are run as they stand, with smaller settings behind them."""

import io
import itertools
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn

from overproof import cli
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.wide import WideResNet
from overproof.models.weights import build
from overproof.signature import Signature

DOCS = Path(__file__).parents[2] / "docs"
SMALLER = {
    "train": "--device cpu --set training.epochs=1 --set training.precision=fp32 --set method.inner.steps=1"
    " --set selection.every=1 --set selection.examples=20",
    "evaluate": "--device cpu --attacks tiny.yaml --examples 20 --no-reliability",
    "certify": "--device cpu --examples 20 --bound ibp",
    "smoothing": "--device cpu --examples 2 --samples 200",
    "file": "--device cpu --examples 2 --no-reliability",
    "check": "--device cpu --examples 20",
    "int8": "--examples 64",
    "vnnlib": "--examples 2",
}
"""What is put behind a command, by the first of its words, or ends of them, that is here; later options win."""
SMALL = {"wrn-34-10": "{kind: wide, depth: 10, width: 1}", "resnet18": "{kind: resnet, width: 0.25}"}
"""What stands for a network that is too large for a test."""


def written(page):
    """Return the commands of a page's blocks, in order, as words."""
    lines = [line.strip() for line in (DOCS / page).read_text().splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("overproof ")]


def smaller(words):
    """Return the settings behind a command."""
    if words[0] == "evaluate" and words[1].endswith(".onnx"):
        return SMALLER["file"].split()
    if "--smoothing" in words:
        return SMALLER["smoothing"].split()
    return next((SMALLER[word].split() for word in words if word in SMALLER), [])


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Return a function that calls the command line in an empty folder; exit status 0 is expected."""
    monkeypatch.chdir(tmp_path)
    suite = "name: tiny\nattacks: [{name: apgd, attack: {kind: apgd, steps: 2}}]\n"
    (tmp_path / "tiny.yaml").write_text(suite)

    def run(words, behind=None):
        spread = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        settings = smaller(words) if behind is None else behind.split()
        monkeypatch.setattr(sys, "argv", ["overproof", *(SMALL.get(word, word) for word in spread), *settings])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0) == 0, f"{words}: {err}"
        return out

    return run


def test_a_network_of_ones_own(call, tmp_path):
    text = (DOCS / "own-network.md").read_text()
    code, recipe = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "yaml"))
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "models.py").write_text(code)
    (tmp_path / "own.yaml").write_text(recipe)
    try:
        out = [call(words) for words in written("own-network.md")]
    finally:
        for name in ("shapes", "shapes.models"):
            sys.modules.pop(name, None)
    assert "student: shapes.models:student, " in out[0]
    assert (tmp_path / "runs" / "own" / "model.onnx").is_file()


def test_the_start(call, tmp_path):
    commands = written("start.md")
    assert [words[0] for words in commands] == ["train", "train", "evaluate", "evaluate", "certify", "compare"]
    out = [call(words) for words in commands]
    assert "certified accuracy: " in out[4]
    for file in ("evaluation.json", "certificate.json", "report.html"):
        assert (tmp_path / "runs" / "digits-ard" / file).is_file()
    assert (tmp_path / "report.html").is_file()


def test_the_python_of_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "start.md").read_text(), flags=re.DOTALL)
    monkeypatch.setattr("overproof.train", _short)
    exec(block, {})
    clean, worst = map(float, capsys.readouterr().out.split())
    assert 0 <= worst <= clean <= 1


def _short(recipe, out):
    from overproof.commands.train import train
    from overproof.recipe import read
    from overproof.shipped import find_recipe

    return train(read(find_recipe(recipe), ["training.epochs=1", "training.precision=fp32"]), out, device="cpu")


def test_the_own_teacher(call, tmp_path, monkeypatch):
    monkeypatch.setattr("overproof.commands.plan.SECONDS", 0.2)
    torch.manual_seed(0)
    teacher = build(ConvNet(channels=(16,), hidden=(32,)), Signature(channels=1, height=8, width=8, classes=10))
    torch.save({"state_dict": teacher.backbone.state_dict()}, tmp_path / "teacher.pt")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "distil.md").read_text(), flags=re.DOTALL)
    (tmp_path / recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    commands = written("distil.md")
    verbs = ["teacher", "teacher", *["train"] * 3, *["train", "evaluate"] * 2, "compare"]
    assert [words[0] for words in commands] == verbs  # a plan, a budget and a dry run come first
    out = [call(words) for words in commands]
    assert "unfit" in out[1]  # its weights are random
    assert "my-ard (2 seeds)" in out[-1]


def test_the_photographs(call):
    text = (DOCS / "photos.md").read_text()
    (code,), (recipe,), (shown,) = (
        re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL) for language in ("python", "yaml", "text")
    )
    exec(code, {})
    Path("photos.yaml").write_text(recipe)
    commands = written("photos.md")
    assert [words[0] for words in commands] == [*["train"] * 4, "evaluate", "evaluate", "certify", "compare", "recipe"]
    first = call(commands.pop(0), "--device cpu")
    for line in shown.splitlines():
        assert line in first
    epochs = iter(("1", "1", "2"))
    for words in commands:
        short = f"--device cpu --set training.epochs={next(epochs)}" if words[0] == "train" else None
        out = call(words, short)
        if "--resume" in words:
            assert (
                "the run is extended from 1 to 2 epochs; the constant schedule is that of a run of this length" in out
            )
    for file in ("evaluation.json", "certificate.json", "report.html"):
        assert Path("runs", "photos", file).is_file()
    assert Path("report.html").is_file() and Path("mine.yaml").is_file()


class TestReference:
    """Pages that show commands by themselves, on runs that the reader has: here they are made first, on noise."""

    @pytest.fixture
    def reader(self, call, tmp_path, monkeypatch):
        """Put down what a reader has: data, runs, checkpoints and a package; return how he calls the command line."""
        monkeypatch.setenv("OVERPROOF_DATA", str(tmp_path / "data"))
        for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3))):
            for split, count in (("train", 200), ("test", 40)):
                noise = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
                file = tmp_path / "data" / name / f"{split}-00000-of-00001.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                parquet.write_table(self.table(noise), file)
        runs, small = Path("runs"), "student={kind: convnet, channels: [4], hidden: [8]}"
        call(["train", "mnist/teacher", "--set", small])
        call(["train", "mnist/ard", "--set", small])
        call(["train", "cifar10/at", "--set", small])
        copies = {"teacher": "mnist-teacher", "student": "mnist-ard", "cifar-resnet": "cifar10-at"}
        for copy, original in copies.items():
            shutil.copytree(runs / original, runs / copy)
        seen = Signature(channels=3, height=32, width=32, classes=10)
        for file, network in (("model_cifar_wrn.pt", WideResNet(depth=10, width=1)), ("best.pth", ResNet(width=0.25))):
            torch.save(build(network, seen).backbone.state_dict(), file)
        chains = {
            "cifar_base.pth": ((nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 16, 4, 2, 1)), (1024, 100, 10)),
            "other.pt": ((nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 4, 2, 1)), (2048, 10)),
            "mine.pt": ((), (3072, 8, 10)),
        }
        for file, (convolutions, sizes) in chains.items():
            layers = [each for one in convolutions for each in (one, nn.ReLU())] + [nn.Flatten()]
            for number, pair in enumerate(itertools.pairwise(sizes)):
                layers += [nn.ReLU()] * (number > 0) + [nn.Linear(*pair)]
            torch.save(nn.Sequential(*layers).state_dict(), file)
        residual = PlainResNet(stem=8, channels=(16, 16), blocks=(1, 1), stride=(2, 2), hidden=(100,), stem_stride=2)
        torch.save(build(residual, seen).backbone.state_dict(), "resnet2b.pth")
        Path("package").mkdir()
        lines = [
            "from torch import nn",
            "def factory(depth):",
            "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, depth), nn.ReLU(), nn.Linear(depth, 10))",
        ]
        Path("package", "module.py").write_text("\n".join(lines))
        Path("my_package").mkdir()
        lines = ["from torch import nn", "def student(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"]
        Path("my_package", "models.py").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)

        def run(words):
            if words[0] == "train" and "--out" not in words:
                shutil.rmtree(runs / words[1].replace("/", "-"), ignore_errors=True)
            return call([*words, "--set", small] if words[0] == "train" else words)

        yield run
        for name in ("my_package", "my_package.models", "package", "package.module"):
            sys.modules.pop(name, None)

    @staticmethod
    def table(images):
        """Return images, labelled in turn, in the hub's schema."""
        files = [io.BytesIO() for _ in images]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file, "PNG")
        label = {"names": list("0123456789"), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": label}
        cells = [{"bytes": file.getvalue(), "path": None} for file in files]
        table = pa.table({"image": cells, "label": [number % 10 for number in range(len(images))]})
        return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    @pytest.mark.parametrize(
        ("page", "count"),
        [
            ("../README.md", 11),
            ("certification.md", 3),
            ("evaluation.md", 2),
            ("report.md", 2),
            ("shipping.md", 5),
            ("teachers.md", 3),
        ],
    )
    def test_every_command_runs(self, reader, page, count):
        commands = written(page)
        assert len(commands) >= count
        if page == "report.md":
            for name in ("mnist-teacher", "mnist-ard"):
                reader(["evaluate", f"runs/{name}"])
        if page == "../README.md":  # begins with nothing
            shutil.rmtree("runs")
        for words in commands:
            reader(words)
