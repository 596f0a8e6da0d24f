import json
import shutil

import pytest

from overproof.commands.compare import compare, write_report
from overproof.commands.evaluate import evaluate
from overproof.errors import InputError
from overproof.runs.folder import Run


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):
    """Two evaluated runs on the same footing; not to be changed."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("runs") / f"run-{seed}"
        shutil.copytree(finished(f"seed={seed}", f"name=toy-{seed}").folder, folder)
        evaluate(folder, examples=40, device="cpu", save_adversarial=True, reliability=False)
        folders.append(folder)
    return folders


@pytest.fixture
def runs(evaluated, tmp_path):
    """Copies of the two."""
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in evaluated]


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        compare(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_seeds_of_one_recipe_share_a_row(runs):
    (table,) = compare(runs)
    (row,) = table.rows
    assert (row.name, [member.name for member in row.members]) == ("toy", ["toy-0", "toy-1"])
    assert [column.label for column in table.columns][:5] == ["clean", "fgsm", "pgd-5", "worst case", "W-Robust"]
    for folder, member in zip(runs, row.members, strict=True):
        found = Run(folder).evaluation()
        assert member.cells["worst"].value == found["worst"]["share"]
        assert member.cells["clean"].interval == tuple(found["clean"]["interval"])
        assert member.cells["minutes"].value == sum(one["seconds"] for one in Run(folder).metrics()) / 60


def test_another_radius_or_subset_is_another_table(runs):
    evaluate(runs[1], examples=40, eps="0.05", device="cpu", reliability=False)
    (table,) = compare(runs)  # the recipe's own threat is what is shown
    (other,) = table.rows[0].others
    assert other.startswith("evaluation by recipe, linf eps 0.05, 40 of 360 images of digits, seed 0: clean ")
    (weaker,) = (runs[1] / "evaluations").glob("*0-05*")
    assert [len(table.rows) for table in compare([runs[0], weaker])] == [1, 1]  # it is compared where it is named
    evaluate(runs[1], examples=41, device="cpu", reliability=False)
    assert len(compare(runs)) == 2


def test_the_page_and_the_texts_are_written_whole(runs, tmp_path):
    files = {name: tmp_path / f"table.{name}" for name in ("csv", "latex", "markdown")}
    compare(runs, out=tmp_path / "report.html", **files)
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "toy-0" in page
    assert "toy-1" in page
    assert files["csv"].read_text().startswith("footing,run,method,seeds,marks,clean,clean low,clean high,")
    assert files["markdown"].read_text().startswith("**digits, 40 of 360 test images")
    assert files["latex"].read_text().startswith("\\begin{table}")
    assert refused(runs, out=tmp_path / "nowhere" / "r.html").endswith("what was there is kept")


def test_a_run_named_twice_counts_once(runs):
    (table,) = compare([runs[0], str(runs[0]) + "/", runs[1]])
    assert len(table.rows[0].members) == 2


def test_the_report_of_one_run_lies_beside_it(runs):
    file = write_report(runs[0])
    assert file == runs[0] / "report.html"
    assert "<h1>toy-0</h1>" in file.read_text()


def test_no_run_at_all(tmp_path):
    assert refused([]) == "name at least one run to compare"
    assert refused([tmp_path]) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"


def test_one_bad_run_spoils_nothing_that_was_there(runs, tmp_path):
    (tmp_path / "report.html").write_text("before")
    (runs[1] / "evaluation.json").write_text("{")
    refused(runs, out=tmp_path / "report.html", csv=tmp_path / "t.csv")
    assert (tmp_path / "report.html").read_text() == "before"
    assert not (tmp_path / "t.csv").exists()


def test_an_evaluation_without_a_network_beside_it_is_compared(runs, tmp_path):
    # What was found about a foreign network, or written elsewhere with --out, is the evaluation alone.
    folder = tmp_path / "evaluations" / "mine"
    folder.mkdir(parents=True)
    found = json.loads((runs[0] / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**found, "run": "pkg:net", "method": "foreign"}))
    (table,) = compare([*runs, folder], out=tmp_path / "r.html")
    assert [(row.name, row.method) for row in table.rows] == [("toy", "natural"), ("pkg:net", "foreign")]
    (folder / "evaluation.json").unlink()
    assert refused([folder]) == f"{folder}: not a run folder (it has no recipe.yaml)"
