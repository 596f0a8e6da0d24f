import pytest

from overproof.commands import quickstart as verb
from overproof.commands.quickstart import METHODS, Line, Outcome, quickstart, quickstart_steps
from overproof.recipe import read
from overproof.runs.folder import Run
from overproof.shipped import find_recipe
from overproof.statistics import Spread

TINY = (
    "training.epochs=1",
    "selection={examples: 10, trial: {name: pgd-1, attack: {steps: 1}}}",
    "evaluation={examples: 20, attacks: [{name: fgsm, attack: {steps: 1}}]}",
)


@pytest.fixture
def tiny(monkeypatch):
    """The quickstart on its own recipes, one epoch and two seeds each."""

    def recipe(name, *edits):
        steps = ("method.inner.steps=1",) if name in ("teacher", "at", "ard") else ()
        return read(find_recipe(f"digits/{name}"), (*TINY, *steps, *edits))

    monkeypatch.setattr(verb, "_recipe", recipe)
    monkeypatch.setattr(verb, "SEEDS", (0, 1))
    monkeypatch.setattr(verb, "PROVED", 10)


def test_trains_attacks_compares_and_goes_on_where_it_was(tiny, in_turn, tmp_path):
    steps = list(quickstart_steps(tmp_path))
    *sentences, outcome = steps
    assert sentences[0] == "teacher: adversarial training of a larger network"
    students = [f"student: {name}, seed {seed}" for name in METHODS for seed in (0, 1)]
    assert [sentence for sentence in sentences if sentence in students] == students
    others = [sentence.partition(":")[0] for sentence in sentences if sentence not in students]
    assert others == ["teacher", "teacher", "student", "proof"]
    assert {folder.name for folder in tmp_path.iterdir()} == {
        "teacher",
        "ibp",
        "faithful",
        "report.html",
        *(f"{name}-{seed}" for name in METHODS for seed in (0, 1)),
    }
    assert [line.name for line in outcome.lines] == ["teacher", *METHODS]
    assert outcome.lines[0].parameters > 10 * outcome.lines[1].parameters
    for line in outcome.lines[1:]:
        found = [Run(tmp_path / f"{line.name}-{seed}").evaluation() for seed in (0, 1)]
        assert line.clean.mean == pytest.approx(sum(one["clean"]["share"] for one in found) / 2)
        assert line.robust == Spread.of([one["worst"]["share"] for one in found])
        assert [one["recipe_seed"] for one in found] == [0, 1]
        assert len({one["model_digest"] for one in found}) == 2
    for name in ("kd", "ard"):
        assert Run(tmp_path / f"{name}-0").recipe().teachers == {"robust": str(tmp_path / "teacher")}
    report = outcome.report.read_text()
    assert outcome.verdict in report
    assert outcome.proof in report
    gap = outcome.certificate["teacher"]["gap"]
    assert 0 <= gap["attacked"] <= gap["proven"] <= 1
    assert outcome.certificate["verified"]["of"] == 10
    assert "digits-ard-1" in report

    digests = {folder: Run(folder).model()[1]["digest"] for folder in tmp_path.glob("*-?")}
    again = quickstart(tmp_path)
    assert again.certificate["teacher"]["gap"] == gap
    assert [(line.clean, line.robust) for line in again.lines] == [(line.clean, line.robust) for line in outcome.lines]
    assert {folder: Run(folder).model()[1]["digest"] for folder in tmp_path.glob("*-?")} == digests


def test_runs_trained_at_the_same_time_are_those_of_one_after_the_other(tiny, request, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "SEEDS", (0,))
    monkeypatch.setattr(verb, "METHODS", ("at", "ard"))
    found = {}
    for place in ("together", "in turn"):
        lines = quickstart(tmp_path / place, jobs=2).lines
        weights = {file.parent.name: file.read_bytes() for file in (tmp_path / place).glob("*/model.safetensors")}
        found[place] = weights, lines
        request.getfixturevalue("in_turn")
    assert found["together"] == found["in turn"]
    assert len(found["in turn"][0]) == 5


def test_the_shipped_recipes_are_the_ones_it_uses():
    recipe = verb._recipe("ard", "seed=2", "teachers.robust=elsewhere")
    assert (recipe.method.kind, recipe.seed, recipe.teachers) == ("ard", 2, {"robust": "elsewhere"})
    assert all(verb._recipe(name).data.kind == "digits" for name in ("teacher", "ibp", "faithful", *METHODS))


def test_the_proof_is_one_sentence_with_its_numbers(tmp_path):
    certificate = {
        "threat": {"norm": "linf", "eps": "0.1"},
        "verified": {"share": 0.8, "of": 50},
        "teacher": {"gap": {"attacked": 0.123, "separate": 0.5, "joint": 0.4, "proven": 0.456}},
    }
    proof = Outcome(lines=(), certificate=certificate, report=tmp_path).proof
    assert "within linf 0.1: the right answer on 80 % of 50 test images" in proof
    assert "to that of its teacher of at most 0.46 (an attack attains 0.12)" in proof


@pytest.mark.parametrize(
    ("at", "ard", "sentence"),
    [
        (0.5, 0.62, "withstands 12.0 points more than the same network trained adversarially on its own"),
        (0.5, 0.48, "Here distillation did not help: 2.0 points less robust accuracy"),
        (0.5, 0.5, "Here distillation did not help: 0.0 points less robust accuracy"),
    ],
)
def test_the_verdict_is_honest_both_ways(tmp_path, at, ard, sentence):
    lines = tuple(
        Line(name=name, parameters=1, clean=Spread.of([0.9]), robust=Spread.of([share]))
        for name, share in (("teacher", 0.9), ("at", at), ("ard", ard))
    )
    assert sentence in Outcome(lines=lines, certificate={}, report=tmp_path).verdict


@pytest.mark.parametrize(("seeds", "doubted"), [([0.61, 0.62, 0.63], False), ([0.40, 0.62, 0.84], True)])
def test_the_verdict_says_when_seeds_spread_further_than_the_difference(tmp_path, seeds, doubted):
    lines = tuple(
        Line(name=name, parameters=1, clean=Spread.of([0.9]), robust=Spread.of(shares))
        for name, shares in (("at", [0.49, 0.5, 0.51]), ("ard", seeds))
    )
    assert (
        "the spread of the seeds is larger" in Outcome(lines=lines, certificate={}, report=tmp_path).verdict
    ) is doubted
