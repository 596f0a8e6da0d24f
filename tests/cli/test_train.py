import os
import re
import signal
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import overproof
from overproof.errors import AgreedError, InputError


class TestTrain:
    def test_the_happy_path(self, run_cli, recipe, tmp_path):
        folder = tmp_path / "run"
        code, out, err = run_cli("train", recipe, "--out", folder, "--set", "name=mine", "--device", "cpu")
        assert (code, err) == (0, "")
        *known, first, second, best, where = out.splitlines()
        assert known[0] == "mine: reading digits"
        assert known[-1].startswith(f"results go to {folder}: recipe.yaml, ")
        assert first.startswith("epoch 1/2: adv ")
        assert "held out" not in first
        assert second.startswith("epoch 2/2: adv ")
        assert "; held out: clean " in second
        assert best.startswith("best epoch 2: ")
        assert where == f"run folder: {folder}"
        assert overproof.Run(folder).recipe().name == "mine"

    def test_resume_continues_and_refusing_loses_nothing(self, run_cli, refused, recipe, toy_run):
        before = (toy_run / "model.safetensors").read_bytes()
        assert refused("train", recipe, "--out", toy_run).endswith(
            "exists already; continue it with --resume or choose another --out"
        )
        assert "(seed: 0 -> 5); use the old recipe" in refused(
            "train", recipe, "--out", toy_run, "--resume", "--set", "seed=5"
        )
        code, out, _ = run_cli("train", recipe, "--out", toy_run, "--resume")
        assert code == 0
        assert out.splitlines()[-2].startswith("best epoch 2: ")
        assert (toy_run / "model.safetensors").read_bytes() == before

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
            (["digits/att"], "no shipped recipe of this name (the nearest: digits/at"),
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

        monkeypatch.setattr("overproof.commands.train.iter_train", interrupted)
        code, out, err = run_cli("train", recipe, "--out", tmp_path / "run")
        assert (code, out) == (130, "")
        assert err == f"stopped; the last checkpoint is in {tmp_path / 'run' / 'checkpoint'}, continue with --resume\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_schedulers_signal_is_one_line_and_its_status(self, run_cli, recipe, tmp_path, monkeypatch, number):
        def terminated(*_, **__):
            os.kill(os.getpid(), number)  # to oneself it arrives before the call returns
            pytest.fail("the signal was not heeded")
            yield

        monkeypatch.setattr("overproof.commands.train.iter_train", terminated)
        before = signal.getsignal(number)
        for rank in ("0", "1"):  # each process says it: the first may be the one that is gone
            monkeypatch.setenv("RANK", rank)
            code, out, err = run_cli("train", recipe, "--out", tmp_path / "run")
            assert (code, out) == (128 + number, "")
            assert err.startswith("stopped; the last checkpoint is in ")
        assert signal.getsignal(number) == before

    def test_a_hangup_that_is_ignored_stays_so(self, run_cli, recipe, tmp_path, monkeypatch):
        def hung_up(*_, **__):
            os.kill(os.getpid(), signal.SIGHUP)
            raise InputError("went on")
            yield

        monkeypatch.setattr("overproof.commands.train.iter_train", hung_up)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            assert run_cli("train", recipe, "--out", tmp_path / "run")[2] == "overproof: went on\n"
        finally:
            signal.signal(signal.SIGHUP, before)

    @pytest.mark.parametrize("kind", [InputError, AgreedError, KeyboardInterrupt])
    def test_of_several_processes_the_first_says_what_all_know(self, run_cli, recipe, tmp_path, monkeypatch, kind):
        def fails(*_, **__):
            raise kind("so it is")
            yield

        monkeypatch.setattr("overproof.commands.train.iter_train", fails)
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
        assert "--shard-teachers is for one run on several processes" in refused("train", grid, "--shard-teachers")
        assert refused("train", recipe, "--jobs", "2").endswith(
            "--jobs, --cell and --until are for sweeps, and this is a recipe"
        )
        assert "are for sweeps" in refused("train", recipe, "--cell", "0")
        assert "are for sweeps" in refused("train", recipe, "--until", "5")
        assert "use one of the two" in refused("train", grid, "--cell", "0", "--until", "2")
        for minutes in ("0", "-1", "nan"):
            assert "--until is a number of minutes above 0" in refused("train", grid, "--until", minutes)

    def test_a_sweep_may_end_before_its_cells(self, run_cli, recipe, tmp_path):
        grid = tmp_path / "grid.yaml"
        grid.write_text(f"base: {recipe}\naxes: {{seed: [5, 6], training.epochs: [1]}}\n")
        words = ("train", grid, "--out", tmp_path / "runs", "--device", "cpu", "--resume")
        code, out, err = run_cli(*words, "--until", "1e-9")
        assert (code, err) == (75, "")
        assert out.endswith("the time is up with 2 of 2 cells left; continue with --resume\n")
        assert run_cli(*words, "--until", "60")[0] == 0
        code, out, _ = run_cli(*words, "--until", "1e-9")
        assert (code, out.count("best epoch")) == (0, 2)


def test_a_terminal_shows_a_bar_and_the_losses_of_the_moment(run_cli, recipe, tmp_path, monkeypatch):
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=160, highlight=False)
    for module in ("console", "progress"):
        monkeypatch.setattr(f"overproof.cli.{module}.out_console", console)
    code, out, err = run_cli("train", recipe, "--out", tmp_path / "run", "--set", "name='[red]x'", "--device", "cpu")
    assert (code, out, err) == (0, "", "")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "epoch 1/2: adv " in shown
    assert "epoch 2/2: adv " in shown
    assert re.search(r"\[red\]x .*2/2 epochs", shown)
    assert re.search(r"adv [\d.]+, lr [\d.e-]+; best epoch 2: clean [\d.]+ %, robust [\d.]+ %", shown)


class TestPlan:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch, tmp_path):
        monkeypatch.setattr("overproof.commands.plan.SECONDS", 0.2)
        monkeypatch.chdir(tmp_path)

    def test_a_plan_is_a_table_and_trains_nothing(self, run_cli, recipe, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run_cli("train", recipe, "--plan", "--device", "cpu")
        assert (code, err) == (0, "")
        assert "passes of the student" in out and "toy" in out
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_budget_writes_a_recipe_that_can_be_trained(self, run_cli, recipe, tmp_path):
        code, out, err = run_cli("train", recipe, "--budget", "1h", "--device", "cpu")
        assert (code, err) == (0, "")
        assert "fits into 1.0 h: nothing was changed" in out
        assert run_cli("train", tmp_path / "toy-1h.yaml", "--dry-run")[0] == 0

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--plan", "--resume"], "--resume is for training, and --plan and --budget train nothing"),
            (["--plan", "--jobs", "2"], "--jobs is for training, and --plan and --budget train nothing"),
            (["--budget", "1h", "--dry-run"], "--dry-run is for training, and --plan and --budget train nothing"),
            (["--budget", "soon"], "--budget soon: write a time such as 6h, 90m, 45s or 1h30m"),
        ],
    )
    def test_bad_input_is_one_line(self, refused, recipe, words, sentence):
        assert refused("train", recipe, *words) == sentence
