import shlex

from overproof.report.findings import Findings
from overproof.report.provenance import commands, compare_recipes, missing


def test_commands_make_the_figures_again(full):
    train, evaluate, certify = map(shlex.split, commands(full("a")))
    assert train == ["overproof", "train", "runs/a/recipe.yaml", "--out", "runs/a-again"]
    assert evaluate == shlex.split(
        "overproof evaluate runs/a-again --norm linf --eps 8/255 --examples 0 --seed 0 --batch 50 "
        "--teacher runs/teacher"
    )
    assert certify == shlex.split(
        "overproof certify runs/a-again --norm linf --eps 4/255 --bound crown --seconds 1.0 --examples 50 --seed 0 "
        "--batch 100 --teacher runs/teacher"
    )


def test_commands_name_the_suite(finding, evaluation):
    def words(suite):
        return shlex.split(commands(Findings(evaluation=evaluation(suite={"name": suite})))[0])

    assert "--attacks" not in words("recipe")
    assert words("standard")[3:5] == ["--attacks", "standard"]
    assert words("chosen")[3:5] == ["--attacks", "fgsm,pgd-20"]


def test_a_hostile_folder_is_one_word(evaluation):
    (line,) = commands(Findings(evaluation=evaluation(), folder="a; rm -rf $HOME '"))
    assert shlex.split(line)[2] == "a; rm -rf $HOME '"


def test_smoothing_is_asked_for_again(full):
    run = full()
    smoothed = {**run.certificate, "kind": "smoothing", "smoothing": {"sigma": 0.25, "samples": 100}, "teacher": None}
    line = commands(Findings(evaluation=run.evaluation, certificate=smoothed))[-1]
    assert "--smoothing 0.25 --samples 100" in line
    assert "--bound" not in line


def test_recipes_differ_where_they_differ(full, finding):
    one = full("a", recipe={"trials": [{"steps": 1}, {"steps": 2}]})
    other = full("b", seed=3, method="kd", recipe={"trials": [{"steps": 1}], "data": {"kind": "digits"}})
    assert compare_recipes([one, finding(), other]) == [
        ("method.kind", ["ard", "", "kd"]),
        ("trials.1.steps", ["2", "", ""]),
        ("data.kind", ["", "", "digits"]),
    ]
    assert compare_recipes([one, finding()]) == []


def test_what_is_missing_is_said_with_its_command(full, evaluation):
    assert missing(full()) == []
    found = dict(missing(Findings(evaluation=evaluation(), folder="runs/a b", notes=("its reason",))))
    assert list(found) == [
        "left out",
        "certificate: not run",
        "comparison with the teacher: not run",
        "reliability probes: not run",
        "misclassified images: not kept, or there were none",
        "calibration: not recorded",
    ]
    assert found["left out"] == "its reason"
    assert found["certificate: not run"] == "overproof certify 'runs/a b'"
