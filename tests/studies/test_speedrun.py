"""The speedrun: a toy record from start to end, the file that grows, and its page."""

import importlib.util
import json
from pathlib import Path

import pytest
from benchmarks import speedrun

from overproof.models.architectures.catalogue import find_architecture
from overproof.models.classifier import parameter_count
from overproof.recipe import read
from overproof.runs.folder import Run
from overproof.shipped import find_recipe
from overproof.signature import Signature

ROOT = Path(__file__).parents[2]
TOY = (
    "data={kind: digits}",
    "student={kind: mlp, hidden: [4]}",
    "training.epochs=1",
    "selection.every=1",
    "method.inner.steps=1",
)


def test_a_record_counts_teacher_and_student(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "EXAMPLES", 20)
    record = speedrun.speedrun("mnist", 3, tmp_path, device="cpu", sets=TOY, attacks="fgsm")
    seconds = [Run(tmp_path / f"{role}-3").metrics()[0]["processor_seconds"] for role in ("teacher", "student")]
    assert record["minutes"] == pytest.approx(sum(seconds) / 60)
    assert (record["seed"], record["examples"], record["clock"]) == (3, 20, "processor")
    assert Run(tmp_path / "student-3").recipe().teachers == {"robust": str(tmp_path / "teacher-3")}
    file = tmp_path / "speedrun.json"
    for count in (1, 2):
        speedrun.add(record, file)
        assert json.loads(file.read_text()) == [record] * count


def test_the_page_shows_what_the_file_holds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    monkeypatch.setattr(generate, "DOCS", tmp_path / "docs")
    assert "| cifar10 | | | | | | | no GPU was available | | |" in generate.speedrun_page()
    place = {
        "data": "mnist",
        "of": {"student": 4.0},
        "hardware": "a machine",
        "versions": {"torch": "9"},
        "commit": "abc",
    }
    file = tmp_path / "benchmarks" / "results" / "speedrun.json"
    file.parent.mkdir(parents=True)
    runs = [
        place | {"seed": seed, "minutes": minutes, "clean": {"share": 0.98}, "standard": {"share": 0.89}}
        for seed, minutes in ((0, 4.0), (1, 4.0))
    ]
    file.write_text(json.dumps(runs))
    line = "| mnist | trained | 2 | 4.00 ± 0.00 | 98.0 ± 0.0 | 89.0 ± 0.0 | 0, 1 | a machine | torch 9 | abc |"
    assert line in generate.speedrun_page()
    file.write_text(json.dumps([runs[0], runs[1] | {"of": {"alone": 4.0}}]))
    assert "| mnist | trained | 1 | 4.00 |" in generate.speedrun_page()
    assert "| mnist | none | 1 | 4.00 |" in generate.speedrun_page()
    file.write_text(json.dumps([runs[0] | {"data": "cifar10"}]))
    assert "| cifar10 | trained | 1 | 4.00 |" in (page := generate.speedrun_page()) and "no GPU" not in page


def test_a_student_alone_has_no_teacher_to_pay_for(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "EXAMPLES", 20)
    record = speedrun.speedrun("mnist", 3, tmp_path, alone=True, device="cpu", sets=TOY, attacks="fgsm")
    run = Run(tmp_path / "alone-3")
    assert record["of"] == {"alone": pytest.approx(run.metrics()[0]["processor_seconds"] / 60)}
    assert record["minutes"] == record["of"]["alone"] and not run.recipe().teachers


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_the_students_are_small_and_the_headers_claim_nothing(data):
    side, channels = (28, 1) if data == "mnist" else (32, 3)
    like = Signature(channels=channels, height=side, width=side, classes=10)
    sizes = []
    for role in ("teacher", "student"):
        file = find_recipe(f"{data}/speedrun-{role}")
        assert file.read_text().startswith("# Not run here.") is (data == "cifar10")
        assert bool(read(file).teachers) is (role == "student")
        sizes.append(parameter_count(read(file).student.build(like)))
    assert read(find_recipe(f"{data}/speedrun-alone")).student == read(find_recipe(f"{data}/speedrun-student")).student
    assert sizes[1] <= (
        sizes[0] / 10 if data == "mnist" else parameter_count(find_architecture("mobilenetv2").build(like))
    )
