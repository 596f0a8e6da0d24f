"""A toy study from its file to its figures, with real processes; and what a column may not point at."""

import json
import re
import shutil

import pytest
import yaml
from studies.__main__ import bring_kept, main
from studies.grid import Column, cells, find_study
from studies.result import _figure
from tests.studies.test_grid import content

from overproof.errors import InputError
from overproof.runs.folder import Run

COLUMNS = {
    "clean": {"of": "quick", "at": "clean.share"},
    "alpha": {"of": "recipe", "at": "method.alpha"},
    "minutes": {"of": "training", "at": "processor_minutes"},
    "all minutes": {"of": "training", "at": "processor_minutes_with_teachers"},
}


def with_page(text, **changes):
    return text | {"page": text["page"] | changes}


def test_a_study_runs_and_another_one_or_another_machine_finds_its_runs_done(tmp_path, capfd):
    """One test, because its three trainings are what takes time."""
    text = content(seeds=[0], exams={"quick": {"verb": "evaluate", "attacks": "fgsm", "examples": 20}}, columns=COLUMNS)
    text["page"]["examined"] = {"teacher": []}
    for name in ("one", "other"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(with_page(text, title=name), sort_keys=False))
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([str(tmp_path / "one.yaml"), *places, "--until", "0"]) == 75
    assert main([str(tmp_path / "one.yaml"), *places]) == 0
    first = json.loads((tmp_path / "results" / "one.json").read_text())
    said = capfd.readouterr().out
    assert said.count("done in") == 3
    assert main([str(tmp_path / "other.yaml"), *places]) == 0
    assert "done in" not in capfd.readouterr().out
    second = json.loads((tmp_path / "results" / "other.json").read_text())
    assert first["runs"] == second["runs"]
    ard, teacher = first["runs"]
    assert set(teacher["figures"]) == {"minutes", "all minutes"}
    assert ard["figures"]["alpha"] == {"value": 1.0}
    whole = ard["figures"]["minutes"]["value"] + teacher["figures"]["minutes"]["value"]
    assert ard["figures"]["all minutes"]["value"] == pytest.approx(whole)
    (evaluation,) = (tmp_path / "runs" / ard["folder"] / "exams").glob("*/evaluation.json")
    found = json.loads(evaluation.read_text())
    assert ard["figures"]["clean"] == {
        "value": found["clean"]["share"],
        "interval": found["clean"]["interval"],
    }
    for name, cell in ard["cells"].items():
        assert cell["command"].startswith("overproof ") and cell["commits"] and cell["hardware"], name
        assert cell["versions"]["torch"] and cell["minutes"] > 0
    _on_another_machine(tmp_path, with_page(text, title="one"), places, capfd)


def _on_another_machine(tmp_path, text, places, capfd):
    """What the file of results holds is kept, and its teacher trained again for what is new."""
    file, results = tmp_path / "one.yaml", tmp_path / "results" / "one.json"

    def run(*more, seeds=text["seeds"], **changes):
        file.write_text(yaml.safe_dump(with_page(text, **changes) | {"seeds": seeds}, sort_keys=False))
        assert main([str(file), *places, *more]) == 0
        return capfd.readouterr().out

    first = results.read_text()
    shutil.rmtree(tmp_path / "runs")
    assert "3 of 3 done" in run("--list") and "done in" not in run()
    assert results.read_text() == first
    said = run(seeds=[0, 1])
    assert said.count("done in") == 3 and "ard, seed 0" not in said  # the teacher, the new seed and its exam
    ard, new, teacher = json.loads(results.read_text())["runs"]
    assert ard == json.loads(first)["runs"][0] and new["seed"] == 1
    # The same CPU gave the same weights; where it does not, the page says so.
    assert ard["teachers"] == new["teachers"] == {"robust": {key: teacher[key] for key in ("folder", "model_digest")}}
    changed = {"quick": {"verb": "evaluate", "attacks": "fgsm", "examples": 10}}
    assert "1 of 3 done" in run("--list", exams=changed)  # its weights are not here: they are made again for it


def test_without_a_name_every_study_is_told_with_what_is_done(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("studies.__main__.study_names", lambda: ("ard-fast", "rrm"))

    def told(*words):
        assert main(words) == 0
        return capfd.readouterr().out.splitlines()

    fresh = told("--runs", str(tmp_path / "runs"), "--results", str(tmp_path))
    said = [re.sub(r"\d{2,}", "N", line).rpartition("; ")[2] for line in fresh]
    assert said == ["0 of N done, planned N minutes"] * 2
    assert "; 14 of 14 done" in told()[0]  # what is committed counts


@pytest.mark.parametrize(
    ("at", "sentence"), [("clean.sahre", "has no 'clean.sahre'"), ("clean", "is no number"), ("list.3", "has no")]
)
def test_a_column_that_points_at_nothing_is_one_sentence(at, sentence):
    left = {"clean": {"share": 0.5}, "list": [1]}
    with pytest.raises(InputError, match=sentence):
        _figure(left, Column(of="quick", at=at, form="number"), "toy: columns.clean")
    assert _figure(left, Column(of="quick", at="list.0", form="number"), "") == {"value": 1}


def test_a_kept_run_is_not_trained_again_and_one_that_is_here_is_left_alone(tmp_path):
    study = find_study("fashion-mnist")
    waiting = cells(study, tmp_path)
    teacher = waiting[0]
    assert not teacher.done
    bring_kept(waiting)
    assert teacher.done and [cell for cell in waiting if cell.done] == [teacher]
    Run(teacher.folder).model()  # its weights are those that its description names
    (teacher.folder / "last.json").unlink()
    bring_kept(waiting)
    assert not teacher.done
