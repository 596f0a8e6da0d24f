import os
import pty
import re
import select
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from io import StringIO

import pytest
from rich.console import Console

from overproof.cli import progress
from overproof.cli.progress import Follower, show_events
from overproof.errors import InputError
from overproof.runs.summary import Beginning


@dataclass
class Item:
    stage: str
    done: int
    total: int = 3
    warnings: list = field(default_factory=list)


def told(item):
    return item.stage, f"{item.done} left"


def test_a_course_is_a_line_per_stage_and_ends_with_its_result(capsys):
    def events():
        yield Beginning(lines=("what is known", "and where it goes"))
        yield Item("pgd", 1)
        yield Item("pgd", 2, warnings=["slow"])
        yield Item("fab", 3)
        return {"found": 1}

    assert show_events(events(), "run", "pass", told) == {"found": 1}
    out = "what is known\nand where it goes\npass 1/3, pgd: 1 left\npass 3/3, fab: 3 left\n"
    assert capsys.readouterr() == (out, "slow\n")


class TestFirstLines:
    def test_they_are_printed_while_work_is_waited_for(self, capsys, monkeypatch):
        monkeypatch.setattr(progress, "_PATIENCE", 0.0)
        opened, said = threading.Event(), progress.say

        def saying(line):
            said(line)
            opened.set()

        monkeypatch.setattr(progress, "say", saying)

        def events():
            yield Beginning(lines=("known",))
            assert opened.wait(60), "nothing was printed although nothing else happened"
            return {}

        show_events(events(), "run", "pass", told)
        assert capsys.readouterr().out == "known\n"

    def test_a_refusal_in_the_same_moment_is_all_that_is_said(self, capsys, monkeypatch):
        monkeypatch.setattr(progress, "_PATIENCE", 1e6)

        def events():
            yield Beginning(lines=("known",))
            raise InputError("no")

        with pytest.raises(InputError):
            show_events(events(), "run", "pass", told)
        assert capsys.readouterr().out == ""


class TestAFile:
    def test_a_line_with_the_time_is_written_however_long_a_step_takes(self, capsys, monkeypatch):
        monkeypatch.setattr(progress, "_LINE_SECONDS", 0.001)
        written, said = threading.Semaphore(0), progress.say

        def saying(line):
            said(line)
            written.release()

        monkeypatch.setattr(progress, "say", saying)
        with Follower("toy") as follower:
            follower.start(0)
            follower.show(5, 20, "1/4 epochs", "adv 0.5")
            while written.acquire(blocking=False):  # lines from before, of a thread that was faster
                pass
            for _ in range(3):  # the first may have been put together before as well
                assert written.acquire(timeout=60)
        lines = capsys.readouterr().out.splitlines()
        clock = r"\d:\d\d:\d\d"
        pattern = rf"20\d\d-\d\d-\d\d \d{clock} toy, 1/4 epochs, adv 0\.5, {clock} left, {clock} since the start"
        assert len(lines) >= 3
        assert all(re.fullmatch(pattern, line) for line in lines[-2:]), lines

    def test_afterwards_nothing_is_written_and_no_thread_is_left(self, monkeypatch):
        monkeypatch.setattr(progress, "_LINE_SECONDS", 0.001)
        before = threading.active_count()
        with Follower("toy"):
            pass
        assert threading.active_count() == before


class TestATerminal:
    def test_the_bar_moves_while_nothing_is_new(self, monkeypatch):
        """The clock in it is drawn by a thread: twice a second, whatever the work does."""
        screen = StringIO()
        monkeypatch.setattr(progress, "out_console", Console(file=screen, force_terminal=True, width=100))
        drawn = threading.Semaphore(0)
        honest = Follower._drawn

        def drawing(self):
            drawn.release()
            return honest(self)

        monkeypatch.setattr(Follower, "_drawn", drawing)
        with Follower("toy") as follower:
            follower.show(5, 20, "1/4 epochs", "adv 0.5")
            for _ in range(4):
                assert drawn.acquire(timeout=60), "it is not drawn again"
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
        assert re.search(r"toy .*1/4 epochs \d:\d\d:\d\d", shown)
        assert "adv 0.5" in shown

    def test_the_time_left_is_reckoned_from_where_the_work_began(self, monkeypatch):
        now = [50.0]
        monkeypatch.setattr(progress, "monotonic", lambda: now[0])
        follower = Follower("toy")
        follower.start(10)
        now[0] += 60
        follower.show(12, 20, "", "")
        assert follower._bar.tasks[0].fields["left"] == "0:04:00 left"
        follower.start(12)
        follower.show(12, 20, "", "")
        assert follower._bar.tasks[0].fields["left"] == ""

    def test_a_run_on_a_real_one_shows_images_per_second_losses_and_time_left(self, tmp_path):
        """In a pseudo-terminal; an epoch of 14 batches is seen to move inside it."""
        recipe = tmp_path / "toy.yaml"
        recipe.write_text(
            "name: toy\ndata: {kind: digits}\nthreat: {eps: 0.1}\nstudent: {kind: mlp, hidden: [16]}\n"
            "method: {kind: natural}\ntraining: {epochs: 2, batch: 93, precision: fp32}\n"
            "selection: {examples: 20, trial: {name: pgd-1, attack: {steps: 1}}}\n"
        )
        # Every batch is waited for until the bar has been drawn with the one before it.
        code = """
import threading
from overproof import cli
from overproof.cli import progress, train
from overproof.training import loop, pace
pace.LOOK_SECONDS = 0
drawn, draw, learn, speed = threading.Event(), progress.Follower._drawn, loop.Loop._learn, train._Speed.of
def drawing(self):
    found = draw(self)
    drawn.set()
    return found
def learning(self, batch):
    drawn.clear()
    drawn.wait(5)
    learn(self, batch)
def fast(self, images):
    self._at -= 1
    return speed(self, images)
progress.Follower._drawn, loop.Loop._learn, train._Speed.of, progress._DRAWN = drawing, learning, fast, 20
cli.main()
"""
        words = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
        lead, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=terminal, stderr=terminal, env=environment
        )
        os.close(terminal)
        shown = b""
        while select.select([lead], [], [], 120)[0]:
            try:
                part = os.read(lead, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
        os.close(lead)
        assert process.wait(timeout=60) == 0, shown
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
        assert "images: 1,294 train, 143 held out" in text
        assert len(set(re.findall(r"0/2 epochs, batch (\d+)/14", text))) > 5
        assert re.search(r"1/2 epochs, batch \d+/14 0:\d\d:\d\d 0:\d\d:\d\d left", text)
        assert re.search(r"label \d\.\d+, lr \S+, [\d,]+ images/s; best epoch 1: clean", text)
