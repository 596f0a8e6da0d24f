from dataclasses import dataclass, field

import pytest
import typer

from overproof.cli.console import say, show_course, stoppable, warn


@dataclass
class Item:
    stage: str
    done: int
    total: int = 3
    warnings: list = field(default_factory=list)


def test_a_line_is_printed_as_it_is(capsys):
    line = "[bold]" + "x" * 300
    say(line)
    warn(line)
    assert capsys.readouterr() == (line + "\n", line + "\n")


def test_a_course_is_a_line_per_stage_and_ends_with_its_result(capsys):
    def course():
        yield Item("pgd", 1)
        yield Item("pgd", 2, warnings=["slow"])
        yield Item("fab", 3)
        return {"found": 1}

    assert show_course(course(), "run", "pass", lambda item: (item.stage, f"{item.done} left")) == {"found": 1}
    assert capsys.readouterr() == ("pass 1/3, pgd: 1 left\npass 3/3, fab: 3 left\n", "slow\n")


def test_a_stop_says_what_was_kept(capsys):
    with pytest.raises(typer.Exit) as caught, stoppable("all is kept"):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == "stopped; all is kept\n"
