from io import StringIO

import pytest
from rich.console import Console

from overproof.cli.compare import print_table
from overproof.report.columns import FIXED, Cell
from overproof.report.table import Row, Table


class TestCompare:
    def test_the_happy_path(self, run_cli, toy_run, tmp_path):
        run_cli("evaluate", toy_run, "--examples", "20", "--device", "cpu")
        out_file = tmp_path / "report.html"
        code, out, err = run_cli("compare", toy_run, "--out", out_file)
        assert (code, err) == (0, "")
        assert "20 of 360 test images" in out
        assert out.endswith(f"report: {out_file}\n")
        assert "<!doctype html>" in out_file.read_text()[:20]

    def test_the_table_as_text(self, run_cli, toy_run, tmp_path):
        run_cli("evaluate", toy_run, "--examples", "20", "--device", "cpu")
        files = {name: tmp_path / name for name in ("csv", "latex", "markdown")}
        words = [word for name, file in files.items() for word in (f"--{name}", file)]
        code, out, err = run_cli("compare", toy_run, *words)
        assert (code, err) == (0, "")
        assert out.endswith("".join(f"{name}: {file}\n" for name, file in files.items()))
        assert all(file.read_text() for file in files.values())

    def test_an_unevaluated_run_is_one_line(self, refused, toy_run):
        (toy_run / "evaluation.json").unlink(missing_ok=True)
        assert refused("compare", toy_run) == f"{toy_run}: not evaluated yet; run: overproof evaluate {toy_run}"


def test_a_table_keeps_its_intervals_off_a_terminal(run_cli, toy_run):
    run_cli("evaluate", toy_run, "--examples", "20", "--device", "cpu")
    _, out, _ = run_cli("compare", toy_run)
    assert all("…" not in line for line in out.splitlines())
    assert out.count("[") >= 2


def test_off_a_terminal_a_table_has_100_characters_and_says_what_it_leaves_out(run_cli, toy_run):
    run_cli("evaluate", toy_run, "--examples", "20", "--device", "cpu")
    run_cli("evaluate", toy_run, "--examples", "10", "--device", "cpu", "--attacks", "fgsm")
    _, out, _ = run_cli("compare", toy_run)
    table, (left, other) = out.splitlines()[:-3], out.splitlines()[-3:-1]
    assert all(len(line) <= 100 for line in table)
    assert sum("toy" in line for line in table) == 1
    assert "clean" in out
    assert "worst case" in out
    assert left.startswith("not shown here: ")
    assert "pgd-2" in left
    assert other.startswith(
        "also kept of toy: evaluation by chosen, linf eps 0.1, 10 of 360 images of digits, seed 0: "
    )


@pytest.mark.parametrize("width", [60, 100, 400])
def test_a_wide_table_comes_in_parts_that_name_the_runs_again(run_cli, toy_run, monkeypatch, width):
    run_cli("evaluate", toy_run, "--examples", "20", "--device", "cpu")
    screen = StringIO()
    monkeypatch.setattr("overproof.cli.compare.out_console", Console(file=screen, width=width))
    run_cli("compare", toy_run, "--wide")
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    named = sum("toy" in line for line in lines)
    assert named == 1 if width == 400 else named > 1
    for label in ("clean", "pgd-2", "W-Robust", "multiply-adds", "passes"):
        assert sum(label in line for line in lines) == 1


def test_the_best_is_bold(monkeypatch):
    def table(better):
        def row(name, value):
            cell = Cell(value=value, interval=(value - 0.01, value + 0.01))
            return Row(name=name, method="m", cells={"clean": cell}, places=(0,))

        best = {"clean": 1} if better else {}
        rows = (row("one", 0.5), row("[red]two", 0.9))
        return Table(title="[bold]t", heading="t", columns=(FIXED["clean"],), rows=rows, best=best)

    for better in (True, False):
        screen = StringIO()
        monkeypatch.setattr("overproof.cli.compare.out_console", Console(file=screen, force_terminal=True, width=80))
        print_table(table(better))
        line = next(line for line in screen.getvalue().splitlines() if "two" in line)
        assert ("\x1b[1m90.0 [89.0, 91.0]" in line) == better
        assert "[red]two" in line
