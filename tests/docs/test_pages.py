"""What the documentation says is so: generated pages are fresh, code blocks run, commands and recipes exist."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer.main
import yaml

from overproof.cli import app
from overproof.commands.sweep import read_sweep
from overproof.methods.rslad import RSLAD
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build, freeze
from overproof.shipped import find_recipe
from overproof.signature import Signature

ROOT = Path(__file__).parents[2]
WRITTEN = [page for page in (ROOT / "docs").glob("**/*.md") if "node_modules" not in page.parts]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN])

SHOWN = ("lr.yaml", "my-ard.yaml", "own.yaml", "photos.yaml")  # files that a page shows


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands():
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            words = shlex.split(line.split("#")[0], posix=True) if line.strip().startswith("overproof ") else []
            if words and "$" not in line and "&&" not in line:
                found.append(pytest.param(words[1:], id=f"{page.name}: {' '.join(words)}"))
    return found


@pytest.fixture(scope="module")
def generate():
    sys.path.insert(0, str(ROOT / "docs"))  # where Python looks first for a script's neighbours
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "docs"))
    return module


def test_generated_pages_are_as_they_would_be_written(generate):
    stale = [path.name for path, text in generate.pages().items() if not path.is_file() or path.read_text() != text]
    assert not stale, "run make docs"


def test_what_no_gpu_was_asked_has_no_figure(generate):
    empty = generate.gpu_table({}).splitlines()
    assert empty[0] == "No GPU was available:" and all(line.endswith(" |  |") for line in empty[4:])
    part = {"median": 6.1, "low": 6.0, "high": 6.3, "seconds_a": 6.1, "seconds_b": 1.0, "rounds": 5}
    found = {"hardware": "a GPU", "versions": {"torch": "9"}, "against the textbook": {"resnet18 graphs": part}}
    table = generate.gpu_table(found | {"an epoch": {"off": 20.04}, "of the matmul rate": {"off": {"share": 0.4}}})
    assert table.startswith("a GPU, torch 9:")
    for line in (
        "| resnet18, compile graphs: textbook fp32 step / ours | >= 5 | 6.10 [6.00, 6.30] |",
        "| resnet18, compile off: textbook fp32 step / ours | >= 5 |  |",
        "| resnet18, compile off: seconds of an ARD epoch | <= 25 | 20.0 |",
        "| resnet18, compile off: share of the bf16 matmul rate | >= 0.35 | 0.40 |",
    ):
        assert line in table


def test_every_method_has_a_page_in_the_index(generate):
    index = (ROOT / "docs" / "methods" / "index.md").read_text()
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index


def test_every_relative_link_leads_somewhere():
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", prose):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("words", commands())
def test_a_command_in_the_docs_is_read_by_the_command_line(words):
    """Verb, options and their values, as they stand; recipes must exist."""
    command, rest = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        assert rest[0] in command.commands
        command = command.commands[rest.pop(0)]
    if rest != ["..."]:
        given = command.make_context("overproof", rest, resilient_parsing=False).params
        if words[0] == "train" and given["recipe"] not in SHOWN:
            find_recipe(given["recipe"])


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "README.md", "python")
    exec(block, {})
    assert (tmp_path / "runs" / "natural" / "evaluation.json").is_file()


def test_the_loop_of_the_methods_page_trains_a_student():
    (block,) = blocks(ROOT / "docs" / "methods" / "index.md", "python")
    names = {}
    exec(block, names)
    assert len(block.split("def fit")[1].strip().splitlines()) <= 15
    signature = Signature(channels=1, height=4, width=4, classes=2)
    torch.manual_seed(0)
    student, teacher = (build(MLP(hidden=(8,)), signature) for _ in range(2))
    x = torch.rand(64, 1, 4, 4)
    y = (x.flatten(1).mean(dim=1) > 0.5).long()
    before = teacher(x).detach()
    distance = (student(x) - before).abs().mean().item()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.5, momentum=0.9)
    names["fit"](RSLAD(), student, {"robust": freeze(teacher)}, [(x[:32], y[:32]), (x[32:], y[32:])], optimiser, 40)
    assert (student(x).softmax(1) - before.softmax(1)).abs().mean() < 0.5 * distance
    assert torch.equal(teacher(x), before)


def test_the_sweep_and_the_job_of_the_scale_page_agree(tmp_path):
    sweep, taught, job = blocks(ROOT / "docs" / "scale.md", "yaml")
    file = tmp_path / SHOWN[0]
    file.write_text(sweep)
    cells = read_sweep(file, ["teachers.robust=runs/teacher"]).cells
    assert cells[0].name == "seed=0,lr=0.05"
    assert yaml.safe_load(job)["spec"]["completions"] == len(cells) == 6
    file.write_text(taught)
    names = [cell.name for cell in read_sweep(file).cells]
    assert (len(names), names[:2]) == (7, ["teacher,seed=0", "ard,seed=0"])
    assert "--array=0-5 " in (ROOT / "docs" / "scale.md").read_text()


def test_recorded_resumption_is_exact():
    found = json.loads((ROOT / "docs" / "results" / "resume.json").read_text())
    assert found["kills"] >= 1
    for name in ("model.safetensors", "last.safetensors"):
        assert found[name]["alone"] == found[name]["killed and resumed"]
