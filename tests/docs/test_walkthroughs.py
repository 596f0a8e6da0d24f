"""The commands of the pages start and distil are run as they stand, with smaller settings behind them."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from overproof import cli
from overproof.models.convnet import ConvNet
from overproof.models.weights import build
from overproof.signature import Signature

DOCS = Path(__file__).parents[2] / "docs"
SMALLER = {
    "train": "--device cpu --set training.epochs=1 --set training.precision=fp32 --set method.inner.steps=1"
    " --set selection.every=1 --set selection.examples=20",
    "evaluate": "--device cpu --attacks tiny.yaml --examples 20 --no-reliability",
    "certify": "--device cpu --examples 5 --bound ibp",
    "teacher": "--device cpu --examples 20",
}


def written(page):
    """Return the commands of a page's bash blocks, in order, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("overproof ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Return a function that calls the command line in an empty folder; exit status 0 is expected."""
    monkeypatch.chdir(tmp_path)
    suite = "name: tiny\nattacks: [{name: apgd, attack: {kind: apgd, steps: 2}}]\n"
    (tmp_path / "tiny.yaml").write_text(suite)

    def run(words):
        smaller = SMALLER.get(words[0], "").split()
        smaller = [] if words[:2] == ["teacher", "import"] else smaller
        monkeypatch.setattr(sys, "argv", ["overproof", *words, *smaller])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0) == 0, f"{words}: {err}"
        return out

    return run


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
    from overproof.recipe import read
    from overproof.shipped import find_recipe
    from overproof.verbs.train import train

    return train(read(find_recipe(recipe), ["training.epochs=1", "training.precision=fp32"]), out, device="cpu")


def test_the_own_teacher(call, tmp_path):
    torch.manual_seed(0)
    teacher = build(ConvNet(channels=(16,), hidden=(32,)), Signature(channels=1, height=8, width=8, classes=10))
    torch.save({"state_dict": teacher.backbone.state_dict()}, tmp_path / "teacher.pt")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "distil.md").read_text(), flags=re.DOTALL)
    (tmp_path / recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    commands = written("distil.md")
    assert [words[0] for words in commands] == ["teacher", "teacher", *["train", "evaluate"] * 2, "compare"]
    out = [call(words) for words in commands]
    assert "unfit" in out[1]  # its weights are random
    assert "my-ard (2 seeds)" in out[-1]
