import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import overproof
from overproof import cli
from overproof.errors import AgreedError, InputError
from overproof.verbs import quickstart as quickstart_verb
from overproof.verbs.train import train

TOY = """
name: toy
data: {kind: digits}
threat: {eps: 0.1}
student: {kind: mlp, hidden: [16]}
method: {kind: pgd_at, inner: {steps: 1, eps: 0.01}}
training: {epochs: 2, batch: 64, optimiser: {kind: adamw, lr: 0.01}, precision: fp32}
selection: {every: 2, examples: 20, trial: {name: pgd-1, attack: {steps: 1}}}
evaluation: {attacks: [{name: fgsm, attack: {steps: 1, start: none}}, {name: pgd-2, attack: {steps: 2}}]}
"""


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Return a function: the command line in this process; exit status, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["overproof", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.fixture
def refused(run_cli):
    """Return a function: the one sentence that the command line answers bad input with."""

    def run(*words):
        code, out, err = run_cli(*words)
        assert (code, out) == (2, "")
        assert err.startswith("overproof: ")
        assert err.count("\n") == 1
        return err.removeprefix("overproof: ").rstrip("\n")

    return run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    file.write_text(TOY)
    return file


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    return train(recipe, tmp_path_factory.mktemp("runs") / "toy", device="cpu").folder


def in_a_process(code, *words):
    found = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


class TestLightness:
    HEAVY = "print(sorted({'torch', 'numpy', 'datasets', 'sklearn', 'pyarrow', 'plotly'} & set(sys.modules)))"

    def test_importing_the_package_imports_nothing_heavy(self):
        assert in_a_process(f"import sys, overproof; dir(overproof); {self.HEAVY}") == "[]\n"

    @pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["trian"], ["evaluate", "x", "--norm", "l7"]])
    def test_help_and_misspelt_words_answer_without_torch(self, words):
        code = f"""
import sys
from overproof import cli
from overproof.errors import AgreedError, InputError
sys.argv[0] = "overproof"
try:
    cli.main()
except SystemExit:
    {self.HEAVY}
"""
        assert in_a_process(code, *words).endswith("[]\n")

    def test_help_takes_less_than_a_second(self):
        # Processor time, which other processes on the machine do not stretch as they do the clock.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = in_a_process("import sys; sys.argv[0] = 'overproof'\nfrom overproof.cli import main; main()", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
        for verb in ("train", "evaluate", "compare", "quickstart", "list"):
            assert verb in out


class TestTrain:
    def test_the_happy_path(self, run_cli, recipe, tmp_path):
        folder = tmp_path / "run"
        code, out, err = run_cli("train", recipe, "--out", folder, "--set", "name=mine", "--device", "cpu")
        assert (code, err) == (0, "")
        first, second, best, where = out.splitlines()
        assert first.startswith("epoch 1/2: adv ")
        assert "held out" not in first
        assert second.startswith("epoch 2/2: adv ")
        assert "; held out: clean " in second
        assert best.startswith("best epoch 2: ")
        assert where == f"run folder: {folder}"
        assert overproof.Run(folder).recipe().name == "mine"

    def test_resume_continues_and_refusing_loses_nothing(self, run_cli, refused, recipe, finished):
        before = (finished / "model.safetensors").read_bytes()
        assert refused("train", recipe, "--out", finished).endswith(
            "exists already; continue it with --resume or choose another --out"
        )
        assert "(seed: 0 -> 5); use the old recipe" in refused(
            "train", recipe, "--out", finished, "--resume", "--set", "seed=5"
        )
        code, out, _ = run_cli("train", recipe, "--out", finished, "--resume")
        assert code == 0
        assert out.splitlines()[0].startswith("best epoch 2: ")
        assert (finished / "model.safetensors").read_bytes() == before

    def test_the_default_folder(self, run_cli, recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, _ = run_cli("train", recipe, "--set", "training.epochs=1")
        assert code == 0
        assert out.splitlines()[-1] == f"run folder: {Path('runs/toy')}"

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["digits/at", "--set", "training.epoch=3"], "unknown key 'epoch' (did you mean 'epochs'?)"),
            (["digits/at", "--set", "threat.eps=8"], "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
            (["digits/att"], "no shipped recipe of this name (did you mean 'digits/at'?)"),
            (["digits/at", "--device", "abacus"], "device 'abacus' is not available here; use auto or cpu"),
            (["digits/ard"], "runs/quickstart/teacher: no such run folder"),
            (["mnist/at", "--set", "data={kind: npz, path: nowhere.npz}"], "nowhere.npz: no such file"),
        ],
    )
    def test_bad_input_is_one_line(self, refused, tmp_path, monkeypatch, words, sentence):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("OVERPROOF_DATA", raising=False)
        assert sentence in refused("train", *words)
        assert list(tmp_path.iterdir()) == []

    def test_brackets_in_a_message_are_text_and_not_markup(self, refused, tmp_path):
        file = tmp_path / "[red]r.yaml"
        assert refused("train", file).startswith(f"no recipe file '{file}'")

    def test_ctrl_c_is_one_line_and_130(self, run_cli, recipe, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt
            yield

        monkeypatch.setattr("overproof.verbs.train.training", interrupted)
        code, out, err = run_cli("train", recipe, "--out", tmp_path / "run")
        assert (code, out) == (130, "")
        assert err == f"stopped; the last checkpoint is in {tmp_path / 'run' / 'checkpoint'}, continue with --resume\n"

    def test_a_schedulers_sigterm_is_one_line_and_143(self, run_cli, recipe, tmp_path, monkeypatch):
        def terminated(*_, **__):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            yield

        monkeypatch.setattr("overproof.verbs.train.training", terminated)
        before = signal.getsignal(signal.SIGTERM)
        for rank in ("0", "1"):  # each process says it: the first may be the one that is gone
            monkeypatch.setenv("RANK", rank)
            code, out, err = run_cli("train", recipe, "--out", tmp_path / "run")
            assert (code, out) == (143, "")
            assert err.startswith("stopped; the last checkpoint is in ")
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.parametrize("kind", [InputError, AgreedError, KeyboardInterrupt])
    def test_of_several_processes_the_first_says_what_all_know(self, run_cli, recipe, tmp_path, monkeypatch, kind):
        def fails(*_, **__):
            raise kind("so it is")
            yield

        monkeypatch.setattr("overproof.verbs.train.training", fails)
        said = {}
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            code, _, said[rank] = run_cli("train", recipe, "--out", tmp_path / "run")
            assert code == (130 if kind is KeyboardInterrupt else 2)
        assert said["0"].count("\n") == 1
        assert said["1"] == (said["0"] if kind is InputError else "")

    def test_a_sweep_trains_its_cells_or_one_of_them(self, run_cli, refused, recipe, tmp_path, monkeypatch):
        grid = tmp_path / "grid.yaml"
        grid.write_text(f"base: {recipe}\naxes: {{seed: [5, 6], training.epochs: [1]}}\n")
        code, out, err = run_cli("train", grid, "--cell", "1", "--out", tmp_path / "runs", "--device", "cpu")
        assert (code, err) == (0, "")
        assert out.endswith(f"run folder: {tmp_path / 'runs' / 'seed=6,epochs=1'}\n")
        again = ("train", grid, "--out", tmp_path / "runs", "--device", "cpu")
        assert "exists already" in refused(*again)
        code, out, err = run_cli(*again, "--resume", "--jobs", "2")
        assert (code, err) == (0, "")
        lines = sorted(out.splitlines())
        assert [line.partition(": ")[0] for line in lines] == [
            "cell 0 of 2, seed=5,epochs=1",
            "cell 1 of 2, seed=6,epochs=1",
            "run folders",
        ]
        assert lines[0].partition(": ")[2].startswith("best epoch 1: ")
        assert refused("train", grid, "--cell", "2").endswith("there is no cell 2; its 2 are numbered from 0")
        assert "use one of the two" in refused("train", grid, "--cell", "0", "--jobs", "2")
        assert "--jobs must be at least 1" in refused("train", grid, "--jobs", "0")
        assert refused("train", recipe, "--jobs", "2").endswith(
            "--jobs and --cell are for sweeps, and this is a recipe"
        )
        assert "are for sweeps" in refused("train", recipe, "--cell", "0")


class TestEvaluate:
    def test_the_happy_path(self, run_cli, finished):
        code, out, err = run_cli(
            "evaluate", finished, "--attacks", "pgd-2, fgsm", "--eps", "0.05", "--examples", "60", "--device", "cpu"
        )
        assert (code, err) == (0, "")
        found = json.loads((finished / "evaluation.json").read_text())
        assert list(found["attacks"]) == ["pgd-2", "fgsm"]
        assert found["threat"]["eps"] == "0.05"
        assert found["data"]["examples"] == 60
        assert "linf eps 0.05" in out
        low, high = found["worst"]["interval"]
        assert f"{100 * found['worst']['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in out
        assert "toy" in out

    def test_norm_and_seed_are_passed_on(self, run_cli, finished):
        code, _, _ = run_cli("evaluate", finished, "--norm", "l2", "--eps", "1", "--examples", "20", "--seed", "3")
        assert code == 0
        found = json.loads((finished / "evaluation.json").read_text())
        assert (found["threat"], found["seed"]) == ({"norm": "l2", "eps": "1"}, 3)

    def test_bad_input_is_one_line(self, refused, finished, tmp_path):
        assert refused("evaluate", finished, "--attacks", "pgd-3") == (
            "there is no attack or suite 'pgd-3' (did you mean 'pgd-2'?)"
        )
        assert refused("evaluate", finished, "--eps", "8") == (
            "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"
        )
        assert refused("evaluate", finished, "--examples", "-1") == "examples must be 0 (all) or more, got -1"
        assert refused("evaluate", tmp_path) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"

    def test_every_option_reaches_the_evaluation(self, run_cli, finished, tmp_path):
        out = tmp_path / "out"
        words = ["--attacks", "quick", "--teacher", finished, "--batch", "7", "--precision", "fp32", "--data", "digits"]
        code, said, err = run_cli(
            "evaluate", finished, *words, "--examples", "20", "--no-reliability", "--save-adversarial", "--out", out
        )
        assert (code, err) == (0, "")
        found = json.loads((out / "evaluation.json").read_text())
        assert (found["suite"]["name"], found["teacher"]["name"], found["batch"]) == ("quick", str(finished), 7)
        assert (found["search_precision"], found["reliability"]) == ("fp32", None)
        assert (out / "adversarial.safetensors").is_file()
        assert "quick: an upper estimate: the standard suite may break more." in said
        assert "robust accuracy can" not in said

    def test_progress_is_a_line_per_attack_and_the_verdict_comes_last(self, run_cli, finished):
        code, out, _ = run_cli("evaluate", finished, "--examples", "20", "--attacks", "fgsm", "--device", "cpu")
        assert code == 0
        first, second, *_, last = out.splitlines()
        assert first.startswith("pass 1/2, clean: robust ")
        assert second.startswith("pass 2/2, fgsm: robust ")
        assert last == json.loads((finished / "evaluation.json").read_text())["reliability"]["sentence"]

    def test_interrupted_it_says_how_to_go_on_and_does(self, run_cli, refused, finished, tmp_path, monkeypatch):
        from overproof.evaluation import store

        words = ("evaluate", finished, "--examples", "20", "--no-reliability", "--out", tmp_path, "--device", "cpu")
        shown, save = [], store.Store.save

        def stop(self, number, marks, *, whole):
            save(self, number, marks, whole=whole)
            shown.append(number)
            if len(shown) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, "save", stop)
        code, _, err = run_cli(*words)
        assert (code, err) == (130, "stopped; finished blocks are kept, continue with --resume\n")
        assert refused(*words).endswith("an evaluation lies unfinished here; continue with --resume or delete it")
        code, _, err = run_cli(*words, "--resume")
        assert (code, err) == (0, "")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["evaluation.json", "examples.jsonl"]

    def test_an_eps_of_0_is_said_in_words(self, run_cli, finished):
        code, out, _ = run_cli("evaluate", finished, "--eps", "0", "--examples", "20", "--device", "cpu")
        assert code == 0
        assert out.endswith("nothing was attacked and the robust accuracy is the clean one.\n")
        assert "linf eps 0;" in out

    def test_a_network_of_ones_own(self, run_cli, refused, tmp_path, monkeypatch):
        (tmp_path / "cli_net.py").write_text(
            "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        )
        monkeypatch.chdir(tmp_path)
        assert refused("evaluate", "cli_net:make").startswith("cli_net:make: say on which images, with --data digits")
        code, out, err = run_cli("evaluate", "cli_net:make", "--data", "digits", "--examples", "30", "--device", "cpu")
        sys.modules.pop("cli_net")
        assert code == 0
        assert "cli_net:make" in out
        assert "no better than guessing" in err or "none of 30" in err
        code, out, _ = run_cli("compare", "evaluations/cli-net-make")
        assert code == 0
        assert "foreign" in out

    def test_an_unknown_norm_is_a_usage_error(self, run_cli, finished):
        code, _, err = run_cli("evaluate", finished, "--norm", "l7")
        assert code == 2
        assert "'l7' is not one of" in err


class TestCompare:
    def test_the_happy_path(self, run_cli, finished, tmp_path):
        run_cli("evaluate", finished, "--examples", "20", "--device", "cpu")
        out_file = tmp_path / "report.html"
        code, out, err = run_cli("compare", finished, "--out", out_file)
        assert (code, err) == (0, "")
        assert "20 of 360 test images" in out
        assert out.endswith(f"report: {out_file}\n")
        assert "<!doctype html>" in out_file.read_text()[:20]

    def test_an_unevaluated_run_is_one_line(self, refused, finished):
        (finished / "evaluation.json").unlink(missing_ok=True)
        assert refused("compare", finished) == f"{finished}: not evaluated yet; run: overproof evaluate {finished}"


class TestQuickstart:
    def test_the_happy_path(self, run_cli, tmp_path, monkeypatch):
        made = quickstart_verb._recipe

        def tiny(name, *edits):
            steps = [] if name in ("natural", "kd") else ["method.inner.steps=1"]
            few = ["training.epochs=1", "selection.trial.attack.steps=1", "evaluation.examples=10"]
            return made(name, *edits, *steps, *few, "evaluation.attacks=[{name: fgsm, attack: {steps: 1}}]")

        monkeypatch.setattr(quickstart_verb, "_recipe", tiny)
        monkeypatch.setattr(quickstart_verb, "SEEDS", (0,))
        code, out, err = run_cli("quickstart", "--out", tmp_path)
        assert (code, err) == (0, "")
        assert out.startswith("teacher: adversarial training of a larger network\nstudent: natural, seed 0\n")
        assert "clean, %" in out
        assert "(mean of 1 seeds; the spread of the seeds is larger than that)" in out
        assert out.endswith(f"report: {tmp_path / 'report.html'}\n")

    def test_ctrl_c_is_one_line_and_130(self, run_cli, tmp_path, monkeypatch):
        def interrupted(_):
            yield "teacher"
            raise KeyboardInterrupt

        monkeypatch.setattr(quickstart_verb, "quickstart_steps", interrupted)
        code, out, err = run_cli("quickstart", "--out", tmp_path)
        assert (code, out) == (130, "teacher\n")
        assert err == "stopped; finished runs are kept, and the same command continues\n"


class TestList:
    @pytest.mark.parametrize(
        ("room", "line"),
        [
            ("methods", "ard                Adversarially Robust Distillation (Goldblum et al., AAAI 2020)."),
            ("attacks", "pgd                Steepest ascent with projection (Madry et al. 2018)"),
            ("attacks", "standard           Suite: AutoAttack's"),
            ("models", "resnet18           ResNet("),
            ("datasets", "digits             The 1,797 handwritten digits that scikit-learn carries"),
            ("recipes", "digits/ard"),
        ],
    )
    def test_every_room(self, run_cli, room, line):
        code, out, err = run_cli("list", room)
        assert (code, err) == (0, "")
        assert any(one.startswith(line) for one in out.splitlines())

    def test_an_unknown_room_is_one_line(self, refused):
        assert refused("list", "method") == "there is no list of 'method' (did you mean 'methods'?)"


def test_no_words_show_the_help(run_cli):
    code, out, err = run_cli()
    assert code == 2
    assert "Usage" in out + err


def test_a_table_keeps_its_intervals_off_a_terminal(run_cli, finished):
    run_cli("evaluate", finished, "--examples", "20", "--device", "cpu")
    _, out, _ = run_cli("compare", finished)
    assert all("…" not in line for line in out.splitlines())
    assert out.count("[") >= 4
