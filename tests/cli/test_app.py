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
        # CPU time, which other processes on the machine do not stretch as they do the clock.
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
    assert len(commands()) == 12


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


class TestStreams:
    """What a shell may do to the standard streams."""

    SAY = (
        "from overproof.cli import app, main\n@app.command()\ndef talk():\n    {work}\n"
        "import sys; sys.argv[:] = ['overproof', 'talk']; main()"
    )
    TALK = "from overproof.cli.console import say; [say('x' * 50) for _ in range(5000)]; open('done', 'w').close()"

    def talk(self, tmp_path, redirected, work=TALK):
        script = tmp_path / "talk.py"
        script.write_text(self.SAY.format(work=work))
        words = f"{sys.executable} {script} {redirected}"
        return subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    def test_a_full_one_is_a_sentence_after_the_work(self, tmp_path):
        found = self.talk(tmp_path, ">/dev/full")
        assert (tmp_path / "done").exists()
        assert found.returncode == 2
        assert found.stderr == (
            "overproof: standard output cannot be written (No space left on device); files were written as usual\n"
        )

    @pytest.mark.parametrize("redirected", ["| head -n 1", ">&-", ">&- 2>&-", "2>&-", "2>/dev/full"])
    def test_a_reader_that_left_stops_nothing(self, tmp_path, redirected):
        found = self.talk(tmp_path, f"{redirected}; exit ${{PIPESTATUS[0]}}")
        assert (tmp_path / "done").exists()
        assert (found.returncode, found.stderr) == (0, "")

    def test_a_terminal_that_knows_ascii_alone(self, tmp_path):
        found = self.talk(tmp_path, "", "from overproof.cli.console import say; say('5 ± 1 – \\udcff')")
        assert found.stdout == "5 ± 1 – \\udcff\n"
        script = tmp_path / "talk.py"
        env = {**os.environ, "PYTHONIOENCODING": "ascii"}
        found = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert (found.returncode, found.stdout) == (0, "5 \\xb1 1 \\u2013 \\udcff\n")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("OSError(28, 'No space left on device', 'a\\nb')", "overproof: a b: No space left on device\n"),
        ("PermissionError(13, 'Permission denied')", "overproof: Permission denied\n"),
        ("MemoryError()", "needs more memory than there is"),
        ("RuntimeError('[enforce fail] DefaultCPUAllocator: no')", "needs more memory than there is"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path, raised, said):
    found = TestStreams().talk(tmp_path, "", f"raise {raised}")
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_defect_of_ours_is_not_hidden(tmp_path):
    found = TestStreams().talk(tmp_path, "", "raise RuntimeError('a defect')")
    assert "Traceback" in found.stderr
