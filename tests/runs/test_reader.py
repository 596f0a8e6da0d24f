import json
import shutil
import sys

import pytest

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.errors import InputError
from overproof.models.cost import multiply_adds
from overproof.report.table import tables
from overproof.runs.folder import Run, load
from overproof.runs.reader import findings


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """A run with everything a run can hold; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(finished("seed=3").folder, folder)
    evaluate(folder, examples=40, device="cpu", save_adversarial=True, teacher=folder)
    certify(folder, examples=4, bound="ibp", device="cpu")
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def refused(folder):
    with pytest.raises(InputError) as caught:
        findings(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(run, name, **changes):
    file = run / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_everything_that_a_run_holds(run):
    found = findings(run)
    assert found.evaluation == Run(run).evaluation()
    assert found.certificate == Run(run).certificate()
    assert list(found.metrics) == Run(run).metrics()
    assert len(found.examples) == 40
    assert found.recipe["training"]["epochs"] == 2
    assert found.classes == tuple("0123456789")
    assert found.multiply_adds == multiply_adds(load(run), load(run).signature)
    assert len(found.pictures.index) == found.evaluation["adversarial"]["images"] > 0
    assert set(found.pictures.answers) == {"clean", "attacked", "teacher_clean", "teacher_attacked"}
    assert found.notes == ()


def test_what_is_not_there_is_absent(run):
    for name in ("certificate.json", "metrics.jsonl", "examples.jsonl"):
        (run / name).unlink()
    (run / "adversarial.safetensors").unlink()
    shutil.rmtree(run / "evaluations")
    found = findings(run)
    assert (found.certificate, found.metrics, found.examples, found.pictures) == (None, [], [], None)
    assert "adversarial.safetensors is missing" in found.notes[0]


def test_an_unfinished_or_unevaluated_run_says_what_to_do(run):
    (run / "evaluation.json").unlink()
    proved = findings(run)  # a certificate says what is correct, and what its own attack found
    assert proved.evaluation["clean"] == proved.certificate["clean"]
    assert proved.evaluation["worst"] == proved.certificate["standing"]
    assert proved.evaluation["suite"]["caution"]
    edit(run, "certificate.json", kind="smoothing")
    assert refused(run) == f"{run}: not evaluated yet; run: overproof evaluate {run}"
    edit(run, "certificate.json", kind="bounds", model_digest="0" * 64)
    assert "its network has changed since it was evaluated" in refused(run)
    (run / "certificate.json").unlink()
    assert refused(run) == f"{run}: not evaluated yet; run: overproof evaluate {run}"
    (run / "model.json").unlink()
    assert refused(run) == f"{run}: not finished yet; continue it with: overproof train ... --out {run} --resume"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "evaluation.json: not readable as JSON ("),
        (b"\xff", "evaluation.json: not UTF-8 text"),
        (b"[]", "evaluation.json: not an evaluation of overproof"),
        (b"{}", ": its evaluation.json is of schema None, this version of overproof reads 1 and 2; evaluate it again"),
        (b'{"schema": 9}', ": its evaluation.json is of schema 9, this version of overproof reads 1 and 2"),
    ],
)
def test_a_damaged_evaluation_is_one_sentence(run, body, sentence):
    (run / "evaluation.json").write_bytes(body)
    assert sentence in refused(run)


@pytest.mark.parametrize(
    "change",
    [
        {"clean": None},
        {"clean": {"claim": "", "passed": 9, "of": 3}},
        {"attacks": {"fgsm": {}}},
        {"threat": {"norm": "linf", "eps": "eight"}},
        {"data": {}},
        {"calibration": {"clean": 1}},
    ],
    ids=str,
)
def test_an_evaluation_that_is_none_is_one_sentence(run, change):
    edit(run, "evaluation.json", **change)
    assert refused(run).startswith(f"{run}: its results are not as overproof writes them (")


def test_an_evaluation_of_an_earlier_network_is_refused(run):
    edit(run, "model.json", digest="0" * 64)
    assert refused(run) == f"{run}: its network has changed since it was evaluated; run: overproof evaluate {run}"


def test_a_certificate_of_another_network_or_version_is_left_out_and_named(run):
    edit(run, "certificate.json", model_digest="0" * 64)
    found = findings(run)
    assert (found.certificate, found.notes) == (None, ("certificate.json: of another network than evaluation.json",))
    edit(run, "certificate.json", schema=7)
    assert findings(run).notes == ("certificate.json: of schema 7, not 1",)


def test_the_first_schema_is_read_as_the_second(run):
    now = findings(run)
    old = json.loads((run / "evaluation.json").read_text())
    for key in ("suite", "batch", "search_precision", "calibration", "teacher", "reliability", "warnings", "classes"):
        del old[key]
    for key in ("multiply_adds", "adversarial"):
        del old[key]
    for attack in old["attacks"].values():
        for key in ("targets", "surrogate"):
            del attack["trial"][key]
        del attack["trial"]["attack"]["momentum"], attack["survivors"]
    (run / "evaluation.json").write_text(json.dumps({**old, "schema": 1}))
    then = findings(run)
    assert then.classes == now.classes  # from the network's description
    assert then.multiply_adds == now.multiply_adds  # counted again
    # The same attacks are the same columns.
    (table,) = tables([then, now])
    assert [column.label for column in table.columns][1:3] == ["fgsm", "pgd-5"]
    assert (then.pictures, then.evaluation["suite"]["survivors"]) == (None, False)


def test_a_half_written_last_line_is_left_out(run):
    shutil.rmtree(run / "evaluations")  # where the root's are copied from
    file = run / "examples.jsonl"
    file.write_text(file.read_text()[:-20])
    assert len(findings(run).examples) == 39


def test_code_that_a_run_names_is_not_run_to_be_compared(run, tmp_path, monkeypatch):
    """Not even where an old result leaves out what would be counted; with trust it is counted."""
    from overproof.models.external.module import External
    from overproof.models.weights import build, save_model
    from overproof.signature import Signature

    monkeypatch.chdir(tmp_path)
    made = tmp_path / "found_nets.py"
    made.write_text(
        "from pathlib import Path\nfrom torch import nn\nPath('RAN').touch()\n\n"
        "def student(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    architecture = External(factory="found_nets:student")
    network = build(architecture, Signature(channels=1, height=8, width=8, classes=10))
    digest = save_model(run, network, architecture, tuple("0123456789"), facts={"name": "own"})
    (run / "certificate.json").unlink()
    edit(run, "evaluation.json", model_digest=digest)
    old = json.loads((run / "evaluation.json").read_text())
    del old["multiply_adds"]
    (run / "evaluation.json").write_text(json.dumps(old))
    sys.modules.pop("found_nets")
    (tmp_path / "RAN").unlink()
    assert findings(run).multiply_adds is None
    assert not (tmp_path / "RAN").exists() and "found_nets" not in sys.modules
    assert findings(run, trust_code=True).multiply_adds == 640
    sys.modules.pop("found_nets")
