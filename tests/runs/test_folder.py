import json

import pytest
import torch

from overproof.errors import InputError
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build, save_model
from overproof.recipe import dump, parse
from overproof.runs.folder import Run, find_run, load
from overproof.signature import Signature

TEXT = "{name: toy, data: {kind: digits}, student: {kind: mlp}, method: {kind: natural}}"


@pytest.fixture
def run(tmp_path):
    """A run folder with a recipe and a network."""
    torch.manual_seed(0)
    architecture = MLP(hidden=(3,))
    network = build(architecture, Signature(channels=1, height=2, width=2, classes=2))
    (tmp_path / "recipe.yaml").write_text(dump(parse(TEXT)))
    save_model(tmp_path, network, architecture, ("a", "b"), facts={"name": "toy"})
    return Run(tmp_path)


def refused(action):
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_recipe_and_model_are_read(run):
    assert run.recipe() == parse(TEXT)
    model, description = run.model()
    assert description["name"] == "toy"
    x = torch.rand(3, 1, 2, 2)
    assert torch.equal(load(run.folder)(x), model(x))
    assert torch.equal(load(str(run.folder))(x), model(x))
    assert run.checkpoints == run.folder / "checkpoint"


def test_what_is_no_run(run, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert refused(Run(nowhere).recipe) == f"{nowhere}: not a run folder (it has no recipe.yaml)"
    assert refused(Run(nowhere).model) == f"{nowhere}: no such run folder"
    assert refused(lambda: load(nowhere)) == f"{nowhere}: no such run folder"
    assert refused(lambda: run.model("last")) == f"{tmp_path}: no last.json here, so this is not a finished run"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"\xff", "not UTF-8 text"),
        (b"name: [", "not readable as YAML ("),
        (b"", "a recipe is a mapping with the keys name, seed"),
        (b"nmae: x", "unknown key 'nmae' (did you mean 'name'?)"),
    ],
    ids=["bytes", "half", "empty", "misspelt"],
)
def test_a_damaged_recipe_is_named_by_its_file(run, body, part):
    file = run.folder / "recipe.yaml"
    file.write_bytes(body)
    assert refused(run.recipe).startswith(f"{file}: {part}")


def test_exchanged_weights_are_refused(run):
    file = run.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    assert refused(run.model) == f"{file}: damaged or exchanged; its digest is not the one in model.json"


def test_metrics_are_written_and_read(run):
    assert run.metrics() == []
    records = [{"epoch": 1, "terms": {"adv": 0.1}}, {"epoch": 2, "terms": {"adv": 1e-9}}]
    run.write_metrics(records)
    assert run.metrics() == records
    assert (run.folder / "metrics.jsonl").read_text().count("\n") == 2
    run.write_metrics(records[:1])
    assert run.metrics() == records[:1]


def test_a_half_written_last_line_is_left_out(run):
    (run.folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_evaluation_is_what_was_written(run):
    assert run.evaluation() is None
    run.write_json("evaluation.json", {"schema": 1, "clean": {"share": 0.5}})
    assert run.evaluation() == {"schema": 1, "clean": {"share": 0.5}}
    assert json.loads((run.folder / "evaluation.json").read_text()) == run.evaluation()


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"{", "not readable as JSON ("),
        (b"\xff", "not UTF-8 text"),
        (b"[1]", "not an evaluation of overproof"),
    ],
)
def test_a_damaged_evaluation_is_named(run, body, part):
    file = run.folder / "evaluation.json"
    file.write_bytes(body)
    assert refused(run.evaluation).startswith(f"{file}: {part}")


def test_an_imported_network_says_where_it_is_from(run):
    assert run.imported() is None
    (run.folder / "recipe.yaml").unlink()
    assert run.imported() is None
    description = json.loads((run.folder / "model.json").read_text())
    (run.folder / "model.json").write_text(json.dumps({**description, "imported": {"file": "x.pt"}}))
    assert run.imported() == {"file": "x.pt"}
    (run.folder / "model.json").unlink()
    assert run.imported() is None


def test_a_hub_repository_is_read_like_a_run(run):
    x = torch.rand(3, 1, 2, 2)
    logits = load(run.folder)(x)
    (run.folder / "model.json").rename(run.folder / "config.json")
    assert torch.equal(load(run.folder)(x), logits)
    assert refused(lambda: run.model("last")) == f"{run.folder}: no last.json here, so this is not a finished run"


def test_a_path_is_never_a_repository(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    assert find_run("runs/a").folder.as_posix() == "runs/a"
    assert find_run(run.folder).folder == run.folder
