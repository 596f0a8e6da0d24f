import subprocess
import sys

import pytest

from overproof.attacks.suites import SUITES
from overproof.cli import app, completion
from overproof.commands.export import TARGETS
from overproof.commands.inventory import _LISTS
from overproof.shipped import recipe_names


@pytest.fixture
def tab(monkeypatch, capsys):
    """Return a function: what bash would offer for the last word, asked as the installed completion script asks."""

    def run(*words):
        monkeypatch.setenv("_OVERPROOF_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["overproof", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        with pytest.raises(SystemExit):
            app(prog_name="overproof")
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    return run


def test_the_words_are_those_of_the_rooms_behind():
    """They are written down again because those lists need torch, and Tab must not wait."""
    assert set(completion.LISTS) == set(_LISTS)
    assert set(completion.SUITES) == set(SUITES)
    assert set(completion.FORMATS) == set(TARGETS)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("train", "digits/"), [name for name in recipe_names() if name.startswith("digits/")]),
        (("train", "no-such"), []),
        (("list", "m"), ["methods", "models"]),
        (("evaluate", "runs/a", "--attacks", "rrm"), ["rrm", "rrm-l2"]),
        (("export", "runs/a", "--to", "in"), ["int8"]),
        (("cert",), ["certify"]),
        (("evaluate", "runs/a", "--precision", "b"), ["bf16"]),
    ],
)
def test_tab_offers_what_begins_so(tab, words, offered):
    assert tab(*words) == offered


def test_tab_does_not_wait_for_torch():
    code = """
import sys
from overproof.cli import app, completion
for words in (completion.recipes, completion.lists, completion.suites, completion.formats):
    assert words("") and words("zzz") == []
print(sorted({"torch", "numpy", "yaml", "pydantic"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"
