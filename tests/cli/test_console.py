import os
import signal
from io import StringIO

import pytest
import typer
from rich.color import ColorSystem
from rich.progress import Progress, TextColumn
from rich.table import Table as Grid
from rich.text import Text

from overproof.cli.console import out_console, say, stoppable, warn
from overproof.stopping import Stopped


def test_a_line_is_printed_as_it_is(capsys):
    line = "[bold]" + "x" * 300
    say(line)
    warn(line)
    assert capsys.readouterr() == (line + "\n", line + "\n")


def test_a_stop_says_what_was_kept(capsys):
    with pytest.raises(typer.Exit) as caught, stoppable("all is kept"):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "stopped; all is kept\n"


def test_a_stop_after_all_was_saved_says_where(capsys):
    with pytest.raises(typer.Exit) as caught, stoppable("all is kept"):
        raise Stopped(signal.SIGTERM, "it is saved there")
    assert caught.value.exit_code == 143
    assert capsys.readouterr().err == "it is saved there\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_where_work_asks_for_that(number):
    before = signal.getsignal(number)
    with stoppable("all is kept") as stop, stop.noted():
        os.kill(os.getpid(), number)
        assert stop.number == number
    assert signal.getsignal(number) == before


HOSTILE = "\x1b[31mR\x1b]0;pwn\x07 \x9b1m [/b] [red]x[/red] :x: \u202etxt"


def test_nothing_of_a_stranger_is_obeyed(capsys):
    grid = Grid(title=HOSTILE)
    grid.add_column(HOSTILE)
    grid.add_row(HOSTILE)
    say(HOSTILE)
    warn(HOSTILE)
    out_console.print(grid, Text(HOSTILE), HOSTILE)
    with Progress(TextColumn("{task.description}", markup=False), console=out_console) as bar:
        bar.add_task(HOSTILE)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & set("\x1b\x07\x9b\u202e")
        assert r"\x1b[31mR" in text
        assert "[/b]" in text
        assert ":x:" in text


def test_our_own_styles_reach_a_terminal(monkeypatch):
    terminal = StringIO()
    console = type(out_console)(out_console.file)
    console.file, console._force_terminal, console._color_system = terminal, True, ColorSystem.STANDARD
    console.print(Text("x", style="bold"))
    assert terminal.getvalue() == "\x1b[1mx\x1b[0m\n"
