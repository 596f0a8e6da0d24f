"""A study's file: what it may say, what it makes, and one sentence for each thing it may not say."""

import pytest
import yaml
from studies.grid import FOLDER, cells, find_study, read_study, study_names, trained

from overproof.commands.sweep import read_sweep
from overproof.errors import InputError

SMALL = {"student": {"kind": "mlp", "hidden": [4]}, "training.epochs": 1}


def content(**changes):
    """Return the file of a study; ``runs`` and ``seeds`` are those of the sweep, all other changes are of its page."""
    text = {
        "seeds": [0, 1],
        "runs": {
            "ard": {"recipe": "digits/ard", "set": SMALL, "teachers": {"robust": "teacher"}},
            "teacher": {"recipe": "digits/teacher", "set": SMALL, "seeds": [0]},
        },
    }
    page = {
        "title": "Toy",
        "claim": "A claim.",
        "source": "Nobody, nowhere.",
        "budget_minutes": 1,
        "exams": {"quick": {"verb": "evaluate", "attacks": "fgsm"}},
        "columns": {"clean": {"of": "quick", "at": "clean.share"}},
    }
    own = {key: changes.pop(key) for key in ("runs", "seeds") if key in changes}
    return text | own | {"page": page | changes}


@pytest.fixture
def study(tmp_path):
    def make(name="toy", **changes):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
        return file

    return make


def runs(**changes):
    return {name: one | changes.get(name, {}) for name, one in content()["runs"].items()}


BAD = {
    "no run": ({"runs": {}}, "expected rows, each with the recipe"),
    "no exam": ({"columns": {"x": {"of": "slow", "at": "y"}}}, "there is no exam 'slow'"),
    "key": ({"colums": {}}, r"unknown key 'colums' \(did you mean 'columns'\?\)"),
    "seeds": ({"seeds": [0, "1"]}, "expected a list of whole numbers"),
    "twice": ({"seeds": [0, 0]}, "a seed is there twice"),
    "budget": ({"budget_minutes": 0}, "above 0"),
    "text": ({"claim": 3}, "claim is a text"),
    "verb": ({"exams": {"quick": {"verb": "evaluat"}}}, "did you mean 'evaluate'"),
    "option": ({"exams": {"quick": {"verb": "evaluate", "attack": "fgsm"}}}, "did you mean 'attacks'"),
    "pupil": ({"exams": {"quick": {"verb": "certify", "teacher": "techer"}}}, "did you mean 'teacher'"),
    "file": ({"exams": {"quick": {"verb": "evaluate", "file": "quick"}}}, "quick is not an export"),
    "form": ({"columns": {"c": {"of": "quick", "at": "clean.share", "as": "per cent"}}}, "did you mean 'percent'"),
    "figure": ({"figure": {"x": "clean", "y": ["robust"]}}, "there is no column 'robust'"),
    "missing": ({"figure": {"x": "clean"}}, "key 'y' is missing"),
    "recipe": ({"runs": runs(ard={"recipe": "digits/adr"})}, "the nearest: digits/ard"),
    "teacher": ({"runs": runs(ard={"teachers": {"robust": "teachr"}})}, "did you mean 'teacher'"),
    "exam": ({"examined": {"ard": ["quik"]}}, "did you mean 'quick'"),
    "examined": ({"examined": {"adr": ["quick"]}}, "did you mean 'ard'"),
    "label": ({"labels": {"adr": "ARD"}}, "did you mean 'ard'"),
    "words": ({"labels": {"ard": 3}}, "expected a str"),
    "set": ({"runs": runs(ard={"set": [1]})}, "expected a dict"),
    "list": ({"runs": ["ard"]}, "expected a mapping"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD.values(), ids=BAD)
def test_a_malformed_file_is_one_sentence_that_names_it(study, changes, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        read_study(study(**changes))
    assert "toy.yaml" in str(raised.value) or "recipe" in str(raised.value)
    assert "\n" not in str(raised.value)


DEEP = {
    "edit": ({"set": {"training.epoch": 1}}, "did you mean 'epochs'"),
    "role": ({"teachers": {}}, "say which run is the teacher 'robust'"),
    "itself": ({"teachers": {"robust": "ard"}}, "taught by itself"),
    "other role": ({"teachers": {"robust": "teacher", "clean": "teacher"}}, "teachers names 'clean'"),
}


@pytest.mark.parametrize(("changes", "sentence"), DEEP.values(), ids=DEEP)
def test_what_only_a_recipe_can_tell_is_told_before_anything_runs(study, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        cells(read_study(study(runs=runs(ard=changes))))


def test_a_file_that_is_no_yaml_and_a_name_that_is_none(tmp_path):
    (tmp_path / "toy.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not readable as YAML"):
        read_study(tmp_path / "toy.yaml")
    with pytest.raises(InputError, match="did you mean 'faithful'"):
        find_study("faithfull")


def test_a_key_that_is_none_is_told_in_the_file_and_in_its_page(study):
    file = study()
    file.write_text(file.read_text() + "titel: Toy\n")
    with pytest.raises(InputError, match="unknown key 'titel' of a study"):
        read_study(file)


def test_a_study_is_a_sweep(study):
    sweep = read_sweep(study())
    assert [cell.name for cell in sweep.cells] == ["teacher,seed=0", "ard,seed=0", "ard,seed=1"]
    for name in study_names():
        file = FOLDER / f"{name}.yaml"
        rows = read_study(file)
        assert len(read_sweep(file).cells) == sum(len(rows.seeds_of(row)) for row in rows.runs)


def test_teachers_come_first_and_every_student_has_its_exam(study, tmp_path):
    found = cells(read_study(study()), tmp_path)
    titles = [cell.title for cell in found]
    assert titles.index("teacher, seed 0: training") < titles.index("ard, seed 0: training")
    assert sorted(titles) == sorted(
        [f"ard, seed {seed}: {what}" for seed in (0, 1) for what in ("training", "quick")]
        + ["teacher, seed 0: training", "teacher, seed 0: quick"]
    )
    teacher = next(cell for cell in found if cell.run.row == "teacher")
    for cell in found:
        if cell.run.row == "ard" and not cell.exam:
            assert cell.needs == (teacher.folder,)
            assert cell.run.recipe.teachers == {"robust": str(teacher.folder)}


def test_two_studies_that_ask_for_the_same_run_mean_the_same_folder(study, tmp_path):
    one = trained(read_study(study("one")), tmp_path)
    other = trained(read_study(study("other", title="Other", columns={"x": {"of": "recipe", "at": "seed"}})), tmp_path)
    assert [run.folder for run in one.values()] == [run.folder for run in other.values()]


@pytest.mark.parametrize("row", ["ard", "teacher"])
def test_an_edit_of_a_run_or_of_its_teacher_is_another_run(study, tmp_path, row):
    before = trained(read_study(study()), tmp_path)
    edited = runs(**{row: {"set": SMALL | {"training.batch": 32}}})
    after = trained(read_study(study(runs=edited)), tmp_path)
    assert before["ard", 0].folder != after["ard", 0].folder
    assert (before["teacher", 0].folder == after["teacher", 0].folder) is (row == "ard")


def test_the_folder_does_not_depend_on_where_the_runs_lie(study, tmp_path):
    found = [cells(read_study(study()), tmp_path / place) for place in ("a", "b")]
    names = [
        [str(cell.folder.relative_to(tmp_path / place)) for cell in one] for place, one in zip("ab", found, strict=True)
    ]
    assert names[0] == names[1]


def test_an_exam_at_the_recipes_own_eps_is_the_one_without_it(study, tmp_path):
    exams = {
        "quick": {"verb": "evaluate", "attacks": "fgsm"},
        "same": {"verb": "evaluate", "attacks": "fgsm", "eps": 0.2},
        "less": {"verb": "evaluate", "attacks": "fgsm", "eps": 0.1},
    }
    found = cells(read_study(study(exams=exams)), tmp_path)
    assert [cell.exam for cell in found if cell.run.row == "ard" and cell.run.seed == 0] == ["", "quick", "less"]


def test_every_claim_of_the_project_has_a_study_and_all_are_sound():
    claims = {"ard-clean", "ard-vs-at", "ard-fast", "ard-sweep", "mtard", "rrm", "faithful", "all-methods"}
    assert claims | {"teacher-choice", "shipped", "cifar10-gpu", "cifar10-reduced"} <= set(study_names())
    for name in study_names():
        study = find_study(name)
        assert cells(study)
        if not name.startswith("cifar10"):
            assert study.seeds == [0, 1, 2]
    assert find_study("cifar10-reduced").page.reduced
