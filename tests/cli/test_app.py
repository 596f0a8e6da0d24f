import os
import resource
import subprocess
import sys
from importlib import metadata

import pytest
import typer.main

import overproof
from overproof.cli import app
from overproof.environment import versions
from overproof.shipped import find_recipe


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

    @pytest.mark.parametrize(
        "words", [["--help"], ["--version"], ["train", "--help"], ["trian"], ["evaluate", "x", "--norm", "l7"]]
    )
    def test_help_and_misspelt_words_answer_without_torch(self, words):
        code = f"""
import sys
from overproof import cli
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
        for verb in ("train", "evaluate", "certify", "compare", "quickstart", "list"):
            assert verb in out


def test_versions_are_told(run_cli):
    code, out, err = run_cli("--version")
    told = versions()
    assert (code, err) == (0, "")
    assert out == f"overproof {told['overproof']}, torch {metadata.version('torch')}, Python {told['python']}\n"
    assert overproof.__version__ == told["overproof"]


def test_no_words_show_the_help(run_cli):
    code, out, err = run_cli()
    assert code == 2
    assert "Usage" in out + err


def commands():
    """Yield every command that can be called, by its words."""

    def below(command, words):
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                yield from below(one, [*words, name])
        else:
            yield pytest.param(words, command, id=" ".join(words))

    return list(below(typer.main.get_command(app), []))


def test_every_verb_is_among_the_commands():
    assert len(commands()) == 9


@pytest.mark.parametrize(("words", "command"), commands())
def test_help_ends_with_an_example_that_can_be_called(words, command):
    *_, last = command.help.strip().splitlines()
    program, *typed = last.strip().removeprefix("Example: ").split()
    assert last.strip().startswith("Example: ") and program == "overproof"
    assert typed[: len(words)] == words
    # Reads the words as the command line would, and does nothing: an unknown option raises.
    parsed = command.make_context(" ".join(words), typed[len(words) :], resilient_parsing=False).params
    if words == ["train"]:
        find_recipe(parsed["recipe"])


@pytest.mark.parametrize(("words", "command"), commands())
def test_every_word_and_option_is_explained(words, command):
    silent = [one.name for one in command.params if not (getattr(one, "help", None) or one.metavar)]
    assert silent == []
