"""Every command on one source, on few images; and the documentation's table of which command takes which source."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.commands.certify import certify
from overproof.commands.check_teacher import check_teacher
from overproof.commands.compare import compare
from overproof.commands.evaluate import evaluate
from overproof.commands.export import export
from overproof.commands.train import train

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "sources.md"


def table():
    """Return the table's rows, each a dict of column to word, and the sentences of its letters."""
    text = PAGE.read_text().split("## Which command takes which source")[1]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    sentences = dict(re.findall(r"^\* (\w): `(.+)`$", text, re.MULTILINE))
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}, sentences


TABLE, SENTENCES = table()
EVALUATION = {"attacks": ("fgsm",), "eps": "0.1", "examples": 10, "reliability": False, "device": "cpu"}


@dataclass(frozen=True)
class Around:
    """What the commands find: a maker of recipes from edits, the word for the images, a source's fitting student.

    In the current folder there is a run ``runs/toy``.
    """

    recipe: Callable[..., Any]
    images: str
    student: Callable[[str], str]

    def data(self, source):
        """Return the images that have to be said, where nobody knows them."""
        known = isinstance(source, str) and source.startswith(("runs/", "org/", "net.onnx", "net.int8"))
        return {} if known else {"data": self.images}


def do_evaluate(source, out, around):
    attacks = ("square",) if source == "net.int8.onnx" else EVALUATION["attacks"]  # it has no gradients
    found = evaluate(source, **{**EVALUATION, "attacks": attacks}, **around.data(source), out=out, trust_code=True)
    assert found["clean"]["of"] == 10 and (out / "evaluation.json").is_file()


def do_certify(source, out, around):
    given = {"eps": "0.01", "bound": "crown", "examples": 5, "device": "cpu", "trust_code": True}
    found = certify(source, **given, **around.data(source), out=out)
    assert sum(found["counts"].values()) == 5


def do_export(source, out, around):
    kind = "onnx" if source == "runs/imported" else "torch"
    found = export(source, to=kind, out=out / "net", **around.data(source), trust_code=True)
    assert (out / "net").stat().st_size == found["bytes"]


def do_export_hub(source, out, around):
    found = export(source, to="hub", out=out, **around.data(source), trust_code=True)
    assert "model.safetensors" in found["files"]


def do_compare(source, out, around):
    if isinstance(source, str) and source != "weights.pt":
        evaluate(source, **{**EVALUATION, "attacks": (), "eps": 0}, **around.data(source), trust_code=True)
    (laid,) = compare([source], trust_code=True)
    assert len(laid.rows) == 1


def do_check(source, out, around):
    given = {"eps": "0.1", "examples": 50, "device": "cpu", "trust_code": True}
    _, content = check_teacher(source, **given, **around.data(source), out=out)
    assert json.loads((out / "teacher.json").read_text()) == json.loads(json.dumps(content))
    assert content["parameters"] is None or content["parameters"] > 0


def do_teach(source, out, around):
    edits = ("method={kind: ard, inner: {steps: 1}}", "training.epochs=1")
    recipe = around.recipe(*edits, f"teachers.robust={json.dumps(source)}")
    run = train(recipe, out, device="cpu", trust_code=True)
    assert len(run.description()["teachers"]["robust"]) == 64


def do_surrogate(source, out, around):
    attacks = {**EVALUATION, "attacks": ("transfer-mi-fgsm",)}
    found = evaluate("runs/toy", **attacks, teacher=source, out=out, trust_code=True)
    assert set(found["attacks"]) == {"transfer-mi-fgsm"} and found["teacher"]["name"]


def do_begin(source, out, around):
    edits = ("training.optimiser={kind: sgd, lr: 0}", "training.epochs=1", f"student={around.student(source)}")
    run = train(around.recipe(*edits, f"init={json.dumps(source)}"), out, device="cpu", trust_code=True)
    assert run.description()["init"]["used"] > 0


COMMANDS = {
    "evaluate": do_evaluate,
    "certify": do_certify,
    "export": do_export,
    "export to the Hub": do_export_hub,
    "compare": do_compare,
    "teacher check": do_check,
    "teacher of a recipe": do_teach,
    "surrogate": do_surrogate,
    "init": do_begin,
}
