"""The command line in this process, and a small finished run."""

import shutil
import signal
import sys

import pytest

from overproof import cli
from overproof.recipe import dump

TOY = (
    "method={kind: pgd_at, inner: {steps: 1, eps: 0.01}}",
    "training.batch=64",
    "selection={every: 2, examples: 20, trial: {name: pgd-1, attack: {steps: 1}}}",
    "evaluation={attacks: [{name: fgsm, attack: {steps: 1, start: none}}, {name: pgd-2, attack: {steps: 2}}]}",
)
"""What the command line's run differs in from the toy recipe of all tests."""


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """The tests may themselves run under ``nohup`` or in a shell's background, where some signals are ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
def refused(run_cli, monkeypatch):
    """Return a function: the one sentence that the command line answers bad input with, however slow the CPU is."""

    def run(*words):
        monkeypatch.setattr("overproof.cli.progress._PATIENCE", 1e6)
        code, out, err = run_cli(*words)
        assert (code, out) == (2, "")
        assert err.startswith("overproof: ")
        assert err.count("\n") == 1
        return err.removeprefix("overproof: ").rstrip("\n")

    return run


@pytest.fixture(scope="session")
def recipe(toy, tmp_path_factory):
    """The file of the run's recipe."""
    file = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    file.write_text(dump(toy(*TOY)))
    return file


@pytest.fixture(scope="session")
def trained(finished):
    """The folder of a finished run; not to be changed."""
    return finished(*TOY).folder


@pytest.fixture
def toy_run(trained, tmp_path_factory):
    """A copy of the run's folder, of each test's own."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "toy")
