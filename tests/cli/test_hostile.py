"""Files of a stranger, given to the commands: one sentence and status 2, or work that nothing of them disturbs."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = "\x1b[31mR\x1b]0;pwn\x07[/b]:x:\u202e"


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    from overproof.commands.evaluate import evaluate

    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, folder)
    evaluate(folder, examples=20, device="cpu", reliability=False)
    return folder


@pytest.fixture
def run(evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(evaluated, tmp_path / "run")


@pytest.fixture
def recipe_with(recipe, tmp_path, monkeypatch):
    """Return a function: a recipe file with some keys replaced, in an otherwise empty current folder."""
    monkeypatch.chdir(tmp_path)

    def make(**keys):
        file = tmp_path / "given.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **keys}))
        return file

    return make


def edited(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


class TestNames:
    @pytest.mark.parametrize(
        "name", ["../../evil", "/tmp/evil-overproof", "", ".", "a//b", "a\0b", "a" * 300, HOSTILE, "a/../../b"]
    )
    def test_a_recipe_writes_nowhere_but_below_runs(self, refused, recipe_with, tmp_path, name):
        file = recipe_with(name=name)
        assert "a name" in refused("train", file)
        assert [one.name for one in tmp_path.iterdir()] == [file.name]

    def test_a_sweep_neither(self, refused, recipe_with, tmp_path):
        recipe_with()
        (tmp_path / "grid.yaml").write_text("name: ../../evil\nbase: given.yaml\naxes: {seed: [0]}\n")
        assert "a name" in refused("train", tmp_path / "grid.yaml")
        assert sorted(one.name for one in tmp_path.iterdir()) == ["given.yaml", "grid.yaml"]

    def test_a_finished_evaluation_survives_its_names(self, run_cli, run):
        (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("name: toy", "name: 'm[/b]:x:'", 1))
        status, out, err = run_cli("evaluate", run, "--examples", 5, "--no-reliability")
        assert (status, err) == (0, "")
        assert "m[/b]:x:" in out
        assert (run / "report.html").exists()


class TestCode:
    MODULE = "open('RAN', 'w').close()\ndef net(): ...\n"

    @pytest.mark.parametrize(
        "word",
        ["os:abort", "signal:pause", "antigravity:x", "json:dumps", "torch.hub:load", "m:f", "teacher:x"],
    )
    def test_a_recipe_does_not_run_what_is_not_its_own(self, refused, recipe_with, tmp_path, word):
        (tmp_path / "m.py").write_text(self.MODULE)
        file = recipe_with(method={"kind": "kd"}, teachers={"robust": word})
        assert f"{file}.teachers.robust: {word}: " in refused("train", file, "--out", "o")
        assert not (tmp_path / "RAN").exists()
        assert not (tmp_path / "o").exists()

    def test_an_axis_of_a_sweep_does_not_either(self, refused, recipe_with, tmp_path):
        recipe_with(method={"kind": "kd"}, teachers={"robust": "runs/x"})
        (tmp_path / "grid.yaml").write_text('base: given.yaml\naxes: {teachers.robust: ["os:abort"]}\n')
        for words in ((), ("--trust-code",), ("--set", "teachers.robust=os:abort")):
            assert "standard library" in refused("train", tmp_path / "grid.yaml", *words)

    def test_what_lies_beside_it_is_run_wherever_the_command_stands(self, refused, recipe_with, tmp_path, monkeypatch):
        (tmp_path / "m.py").write_text("def net():\n    open('RAN', 'w').close()\n")
        file = recipe_with(method={"kind": "kd"}, teachers={"robust": "m:net"})
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert "the factory returned None" in refused("train", file)
        assert (tmp_path / "elsewhere" / "RAN").exists()

    def test_a_word_that_was_typed_is_the_users_own(self, refused, recipe_with):
        file = recipe_with(method={"kind": "kd"})
        assert "it needs arguments (obj)" in refused("train", file, "--set", "teachers.robust=json:dumps")


class TestResults:
    @pytest.mark.parametrize(
        "name", ["evaluation.json", "examples.jsonl", "metrics.jsonl", "recipe.yaml", "model.json"]
    )
    @pytest.mark.parametrize(
        "body",
        [b"[" * 100_000, bytes(range(256)), b'{"schema": ' + b"9" * 5000 + b"}", b"[5]\n", "pipe"],
        ids=["deep", "bytes", "digits", "list", "pipe"],
    )
    def test_files_that_are_none_are_one_sentence_or_left_out(self, run_cli, run, name, body):
        shutil.rmtree(run / "evaluations")  # where the root's are copied from
        (run / name).unlink()
        if body == "pipe":
            os.mkfifo(run / name)
        else:
            (run / name).write_bytes(body)
        status, out, err = run_cli("compare", run)
        assert status == 2 or body == "pipe"
        assert err.count("\n") <= 1
        assert "Traceback" not in out + err

    @pytest.mark.parametrize(
        "change",
        [
            lambda found: found.update(warnings=5),
            lambda found: found.update(classes=5),
            lambda found: found.update(data=None),
            lambda found: found.update(attacks=[]),
            lambda found: found.update(versions=7),
            lambda found: found["clean"].update(passed=10**300, of=10**300),
            lambda found: found["threat"].update(eps="1e99999999"),
            lambda found: found.update(parameters=10**400),
            lambda found: found.pop("model_digest"),
        ],
    )
    def test_values_of_another_form_are_one_sentence(self, run_cli, run, change):
        edited(run / "evaluation.json", change)
        status, _, err = run_cli("compare", run, "--out", "o.html")
        assert (status, err.count("\n")) in ((2, 1), (0, 0))

    def test_text_is_shown_and_never_obeyed(self, run_cli, run):
        def change(found):
            found.update(run=f"=cmd|{HOSTILE}", method=f"@{HOSTILE}")
            found["suite"].update(name=HOSTILE, caution=f"+{HOSTILE}")
            found["data"].update(name=f"-{HOSTILE}\udcff<script>")
            found["attacks"] = {f"={HOSTILE}{name}": one for name, one in found["attacks"].items()}

        edited(run / "evaluation.json", change)
        status, out, err = run_cli(
            "compare", run, "--out", "o.html", "--csv", "o.csv", "--latex", "o.tex", "--markdown", "o.md"
        )
        assert (status, err) == (0, "")
        files = {name: Path(name).read_text() for name in ("o.csv", "o.tex", "o.md")}
        for text in (out, *files.values()):
            assert r"\x1b" in text.replace(r"\textbackslash{}", "\\").replace("\\\\", "\\")
            assert not OBEYED.search(text)
        cells = [cell for line in files["o.csv"].splitlines() for cell in line.split(",")]
        assert not [cell for cell in cells if cell.strip('"').startswith(("=", "@", "+"))]
        assert "<script>" not in files["o.md"]

    def test_a_name_of_megabytes_is_shortened(self, run_cli, run):
        edited(run / "evaluation.json", lambda found: found.update(run="a" * 5_000_000))
        status, out, _ = run_cli("compare", run)
        assert status == 0
        assert len(out) < 20_000


class TestDescriptions:
    @pytest.mark.parametrize(
        "change",
        [
            lambda found: found["architecture"].update(hidden=[12_000_000]),
            lambda found: found["architecture"].update(hidden=[1] * 300_000),
            lambda found: found["architecture"].update(hidden=[-5]),
            lambda found: found["architecture"].update(hidden=[2**62]),
            lambda found: found["architecture"].update(hidden=[10**400]),
            lambda found: found["architecture"].update(hidden="abc"),
            lambda found: found["architecture"].update(kind="x" * 1_000_000),
            lambda found: found["signature"].update(classes=10**9),
            lambda found: found["signature"].update(height="x"),
            lambda found: found.update(normalisation={"mean": 5, "std": []}),
            lambda found: found.update(classes=[{}]),
            lambda found: found.update(digest=5),
            lambda found: found.pop("selected_on"),
            lambda found: found.pop("normalisation"),
        ],
    )
    def test_one_that_does_not_fit_its_weights_builds_nothing(self, refused, run, change):
        edited(run / "model.json", change)
        assert "model.json" in (said := refused("evaluate", run, "--examples", 5)) or str(run) in said
        assert len(said) < 5000


class TestRecipes:
    @pytest.mark.parametrize(
        "text",
        [
            "name: [" + "[" * 20_000,
            "seed: 1\nseed: 2\nname: x",
            "name: x\nthreat: {eps: 1e99999999}\ndata: {kind: digits}\nstudent: {kind: mlp}\nmethod: {kind: natural}",
            "#" * 2_000_000,
            "name: " + "9" * 5000,
            "\xff",
        ],
    )
    def test_endless_ones_are_refused_at_once(self, refused, tmp_path, text):
        file = tmp_path / "given.yaml"
        file.write_bytes(text.encode("latin-1"))
        refused("train", file, "--out", tmp_path / "o")
        assert not (tmp_path / "o").exists()

    def test_a_network_that_no_memory_holds_is_not_begun(self, refused, recipe_with):
        said = refused("train", recipe_with(student={"kind": "mlp", "hidden": [10**9, 10**9]}), "--out", "o")
        assert "its weights alone take 4000000304.0 GB" in said

    @pytest.mark.parametrize("word", ["a" * 100_000, "/dev/zero", "a\nb\x1b"])
    def test_words_that_are_no_recipe(self, refused, word):
        said = refused("train", word)
        assert len(said) < 5000
        assert not OBEYED.search(said)
