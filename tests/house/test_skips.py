"""What CI may skip: .ci/skips.py tells a test that no environment runs."""

import subprocess
import sys

import pytest

CASE = '<testcase classname="{}" name="{}">{}</testcase>'
SKIPPED = '<skipped message="no such package"/>'


@pytest.fixture
def said(root, tmp_path):
    """Return a function: the exit status and the lines that skips.py has for reports of (module, test, skipped)."""

    def run(excuses, *reports):
        (tmp_path / "skips.txt").write_text(excuses)
        files = []
        for number, cases in enumerate(reports):
            files.append(tmp_path / f"{number}.xml")
            body = "".join(CASE.format(module, name, SKIPPED if skipped else "") for module, name, skipped in cases)
            files[-1].write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
        words = [sys.executable, root / ".ci" / "skips.py", tmp_path / "skips.txt", *files]
        found = subprocess.run(words, capture_output=True, text=True, timeout=60)
        return found.returncode, (found.stdout + found.stderr).splitlines()

    return run


def test_what_another_environment_runs_is_no_skip(said):
    first = [("tests.a", "test_one", True), ("", "tests.b", True), ("tests.c", "test_two", False)]
    second = [("tests.a", "test_one", False), ("tests.b.TestMore", "test_three", False)]
    assert said("", first, second) == (0, [])


@pytest.mark.parametrize("skip", [("tests.a", "test_one", True), ("", "tests.a", True)], ids=["test", "module"])
def test_what_none_runs_is_named_with_its_reason(said, skip):
    code, (line,) = said("", [skip], [("tests.ab", "test_one", False)])
    assert code == 1
    assert line.startswith("tests.a") and "skipped in every environment: no such package" in line


def test_what_is_excused_may_be_skipped(said):
    skips = [("tests.a", "test_one[x]", True), ("tests.b", "test_two", True)]
    assert said("# why\ntests.a::*  not here\ntests.b::test_two  nor this\n", skips) == (0, [])
    code, lines = said("tests.a::*  not here\n", skips)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("tests.b::test_two ")


def test_an_excuse_without_a_reason_is_refused(said):
    code, lines = said("tests.a::*\n", [])
    assert code == 1 and lines[0].endswith("every pattern needs a reason, after two spaces")


def test_every_excused_module_is_there(root):
    for line in (root / ".ci" / "skips.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert (root / (line.partition("::")[0].replace(".", "/") + ".py")).is_file(), line


def test_every_file_that_asks_for_timm_is_run_where_it_is(root):
    listed = (root / "tests" / "zoo.txt").read_text().split()
    asking = [file for file in (root / "tests").rglob("test_*.py") if 'importorskip("timm")' in file.read_text()]
    assert {str(file.relative_to(root)) for file in asking if file.name != "test_skips.py"} <= set(listed)
