"""Proof of value: these recipes must reproduce their committed curves, so a refactor that changes numbers is seen.

After a wanted change of the numbers run ``python -m tests.golden.test_curves`` and commit the new ``curves.json`` in a
commit of its own, with the reason. They are computed in float64: in float32 a sign() may turn on another CPU.
"""

import json
import sys
from pathlib import Path

import pytest
from tests.exact import in_float64

from overproof.commands.train import train
from overproof.recipe import parse
from overproof.runs.folder import Run

CURVES = Path(__file__).with_name("curves.json")
TEACHER = "natural"
COMMON = """
data: {kind: digits}
augment: {cutout: 2}
normalise: {mean: [0.3], std: [0.3]}
threat: {eps: 0.03}
student: {kind: convnet, channels: [4, 8], kernel: 3, stride: [1, 2], hidden: [16]}
selection: {examples: 20, every: 3, trial: {name: pgd-1, attack: {steps: 1}}}
"""
RECIPES = {
    # Every moving part once: both optimisers, all shapes of schedule, both averages, clipping, warm-up, a teacher.
    "natural": """
method: {kind: natural, label_smoothing: 0.1}
training: {epochs: 3, batch: 64, optimiser: {kind: adamw, lr: 0.005}, schedule: {kind: triangular}, precision: fp32}
""",
    "pgd_at": """
method: {kind: pgd_at, inner: {steps: 2}}
training:
  epochs: 3
  batch: 64
  optimiser: {kind: sgd, lr: 0.1}
  averaging: {kind: ema, decay: 0.9}
  warmup: 1
  clip: 1.0
  precision: fp32
""",
    "ard": """
method: {kind: ard, alpha: 0.7, temperature: 1, inner: {norm: l2, eps: 0.5, steps: 2}}
training:
  epochs: 3
  batch: 64
  optimiser: {kind: adamw, lr: 0.003}
  schedule: {kind: multistep, milestones: [2]}
  averaging: {kind: swa, start: 0.3}
  precision: fp32
""",
}


def curve(name: str, folder: Path) -> list[dict[str, float]]:
    """Train one recipe into ``folder/name`` and return its terms and learning rate, epoch by epoch."""
    text = f"name: {name}\n{COMMON}{RECIPES[name]}"
    if name == "ard":
        text += f"teachers: {{robust: {folder / TEACHER}}}"
    with in_float64():
        train(parse(text), folder / name, device="cpu")
    return [{**record["terms"], "learning_rate": record["learning_rate"]} for record in Run(folder / name).metrics()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("name", RECIPES)
def test_the_committed_curve_is_reproduced(name, folder):
    wanted = json.loads(CURVES.read_text())[name]
    found = curve(name, folder)
    assert [set(epoch) for epoch in found] == [set(epoch) for epoch in wanted]
    for epoch, golden in zip(found, wanted, strict=True):
        # Other CPUs add in another order: 1e-16, which 69 updates do not enlarge to this.
        assert epoch == pytest.approx(golden, rel=1e-8)


def test_the_curves_are_those_of_these_recipes():
    assert list(json.loads(CURVES.read_text())) == list(RECIPES)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        found = {name: curve(name, Path(place)) for name in RECIPES}
    Path(sys.argv[1] if len(sys.argv) > 1 else CURVES).write_text(json.dumps(found, indent=1) + "\n")
