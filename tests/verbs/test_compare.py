import json
import shutil

import pytest

from overproof.errors import InputError
from overproof.run import Run
from overproof.verbs.compare import compare, evaluated
from overproof.verbs.evaluate import evaluate


@pytest.fixture
def runs(finished, tmp_path):
    """Two evaluated runs on the same footing."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}"
        shutil.copytree(finished(f"seed={seed}", f"name=toy-{seed}").folder, folder)
        evaluate(folder, examples=40, device="cpu")
        folders.append(folder)
    return folders


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        compare(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_on_one_footing_share_a_table(runs):
    (table,) = compare(runs)
    assert [row.name for row in table.rows] == ["toy-0", "toy-1"]
    assert table.columns == ("clean", "fgsm", "pgd-5", "worst")
    for folder, row in zip(runs, table.rows, strict=True):
        found = Run(folder).evaluation()
        assert row.cells["worst"].share == found["worst"]["share"]
        assert row.cells["fgsm"].interval == tuple(found["attacks"]["fgsm"]["interval"])


def test_another_radius_or_subset_is_another_table(runs):
    evaluate(runs[1], examples=40, eps="0.05", device="cpu")
    assert [len(table.rows) for table in compare(runs)] == [1, 1]
    evaluate(runs[1], examples=41, device="cpu")
    assert len(compare(runs)) == 2


def test_the_page_is_written_whole(runs, tmp_path):
    out = tmp_path / "report.html"
    compare(runs, out=out)
    page = out.read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "toy-0" in page
    assert "toy-1" in page
    assert refused(runs, out=tmp_path / "nowhere" / "r.html").endswith("what was there is kept")


def test_an_unevaluated_run_says_what_to_do(runs):
    (runs[1] / "evaluation.json").unlink()
    assert refused(runs) == f"{runs[1]}: not evaluated yet; run: overproof evaluate {runs[1]}"


def test_no_run_at_all(tmp_path):
    assert refused([]) == "name at least one run to compare"
    assert refused([tmp_path]) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "evaluation.json: not readable as JSON ("),
        (b"\xff", "evaluation.json: not readable as JSON ("),
        (b"[]", "evaluation.json: not an evaluation of overproof"),
        (b"{}", ": its evaluation.json is of another version of overproof; evaluate it again"),
    ],
)
def test_a_damaged_evaluation_is_one_sentence(runs, body, sentence):
    (runs[0] / "evaluation.json").write_bytes(body)
    assert sentence in refused(runs)


def test_evaluated_returns_the_file(runs):
    assert evaluated(runs[0]) == json.loads((runs[0] / "evaluation.json").read_text())


def test_an_evaluation_of_an_earlier_network_is_refused(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished().folder, run)
    evaluate(run, device="cpu")
    compare([run])
    description = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**description, "digest": "0" * 64}))
    with pytest.raises(InputError, match="its network has changed since it was evaluated; run: overproof evaluate"):
        compare([run])


def test_an_evaluation_without_a_network_beside_it_is_compared(runs, tmp_path):
    # What was found about a foreign network, or written elsewhere with --out, is the evaluation alone.
    folder = tmp_path / "evaluations" / "mine"
    folder.mkdir(parents=True)
    found = json.loads((runs[0] / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**found, "run": "pkg:net", "method": "foreign"}))
    (table,) = compare([*runs, folder])
    assert [(row.name, row.method) for row in table.rows][2] == ("pkg:net", "foreign")
    (folder / "evaluation.json").unlink()
    assert refused([folder]) == f"{folder}: not a run folder (it has no recipe.yaml)"
