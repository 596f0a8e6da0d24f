import json
import sys
from pathlib import Path

import pytest

from overproof.verbs.certify import certify
from overproof.verbs.evaluate import evaluate
from overproof.verbs.train import train

TOY = """
name: toy-{seed}
seed: {seed}
data: {{kind: digits}}
threat: {{eps: 0.05}}
student: {{kind: mlp, hidden: [8]}}
method: {{kind: natural}}
training: {{epochs: 1, batch: 128, optimiser: {{kind: adamw, lr: 0.01}}, precision: fp32}}
selection: {{every: 1, examples: 20, trial: {{name: pgd-1, attack: {{steps: 1}}}}}}
evaluation: {{examples: 40, attacks: [{{name: fgsm, attack: {{steps: 1, start: none}}}}]}}
"""


@pytest.fixture
def collect(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    import collect

    return collect


@pytest.fixture
def run(tmp_path):
    def make(seed):
        recipe = tmp_path / f"{seed}.yaml"
        recipe.write_text(TOY.format(seed=seed))
        folder = train(recipe, tmp_path / f"toy-{seed}", device="cpu").folder
        evaluate(folder, reliability=False, device="cpu")
        return folder

    return make


def test_runs_are_gathered_once_and_replaced(collect, run, tmp_path, monkeypatch):
    folders, out = [run(0), run(1)], tmp_path / "result.json"
    certify(folders[1], teacher=folders[0], bound="ibp", examples=10, device="cpu")
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["collect.py", str(out), *map(str, folders)])
        collect.main()
        first, second = json.loads(out.read_text())
    evaluation = json.loads((folders[0] / "evaluation.json").read_text())
    certificate = json.loads((folders[1] / "certificate.json").read_text())
    assert (first["run"], first["seed"], first["worst"]) == ("toy-0", 0, evaluation["worst"])
    assert "certificate" not in first
    assert second["certificate"]["counts"] == certificate["counts"]
    assert second["certificate"]["teacher"]["gap"]["proven"] == certificate["teacher"]["gap"]["proven"]


def test_a_certificate_of_another_network_is_refused(collect, run):
    folder = run(0)
    certify(folder, bound="ibp", examples=5, device="cpu")
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"digest": "0" * 64}))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"model_digest": "0" * 64}))
    with pytest.raises(SystemExit, match="has changed since it was certified"):
        collect.collect(folder)
