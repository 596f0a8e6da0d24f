"""Running steps: each process once, in order, through kills, deadlines, failures and company."""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import closing

import pytest

from overproof.runs.steps import CommandStep, StepEnded, StepStarted, run_steps

# Stands in for overproof: says that it ran, waits, and leaves its file; words: name, seconds, file, log.
PROGRAM = """
import os, sys, time, pathlib
name, seconds, file, log, *more = sys.argv[1:]
with open(log, "a") as place:
    place.write(" ".join([name, os.environ["OMP_NUM_THREADS"], *more]) + "\\n")
time.sleep(float(seconds))
if name.startswith("bad"):
    sys.exit(print("it went wrong") or 2)
if name.startswith("mute"):
    os.kill(os.getpid(), 9)
if not name.startswith("empty"):
    pathlib.Path(file).write_text("{}")
"""


@pytest.fixture
def made(tmp_path):
    """Return a maker of steps ``{name: (seconds, needs)}`` with or without locks, and the names of what ran."""
    log = tmp_path / "log"

    def make(plan, lock=True):
        return [
            CommandStep(
                name=name,
                words=(name, str(seconds), str(tmp_path / f"{name}.json"), str(log)),
                done=(tmp_path / f"{name}.json").is_file,
                needs=needs,
                lock=tmp_path / "locks" / f"{name}-0.1" if lock else None,
            )
            for name, (seconds, needs) in plan.items()
        ]

    return make, lambda: [line.split()[0] for line in log.read_text().splitlines()] if log.is_file() else []


def run(steps, **options):
    return list(run_steps(steps, program=(sys.executable, "-c", PROGRAM), **options))


def ended(events):
    return {event.step.name: event for event in events if isinstance(event, StepEnded)}


@pytest.mark.parametrize("lock", [True, False])
def test_steps_run_once_each_and_a_second_call_has_nothing_to_do(made, lock):
    make, ran = made
    steps = make({"a": (0, ()), "b": (0, ("a",))}, lock)
    a, b = steps
    assert run(steps) == [StepStarted(step=a), StepEnded(step=a), StepStarted(step=b), StepEnded(step=b)]
    assert ran() == ["a", "b"]
    assert run(steps) == [StepEnded(step=a, ran=False), StepEnded(step=b, ran=False)]
    assert ran() == ["a", "b"]


def test_a_need_that_is_no_step_is_not_waited_for_and_one_further_down_is(made):
    make, ran = made
    assert len(ended(run(make({"b": (0, ("a", "elsewhere")), "a": (0, ())})))) == 2
    assert ran() == ["a", "b"]


def test_options_and_threads_reach_each_process(made, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    make, _ = made
    steps = make({"a": (0.5, ()), "b": (0.5, ())})
    run(steps, jobs=2, threads=3, options=lambda step, slot: ("--place", f"{step.name}{slot}"))
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["a 3 --place a0", "b 3 --place b1"]


def test_so_many_run_at_a_time_and_no_more(made):
    make, _ = made
    most, now = 0, 0
    for event in run(make(dict.fromkeys("abcde", (0.3, ()))), jobs=2):
        now += 1 if isinstance(event, StepStarted) else -1
        most = max(most, now)
    assert (most, now) == (2, 0)


def begin(steps):
    process = multiprocessing.get_context("fork").Process(target=run, args=(steps,))
    process.start()
    return process


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_runner_leaves_its_step_to_end_and_the_next_one_waits_for_it(made):
    make, ran = made
    steps = make({"a": (0, ()), "b": (2, ("a",)), "c": (0, ("b",))})
    process = begin(steps)
    wait_for(lambda: ran() == ["a", "b"])
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not any(event.problem for event in ended(run(steps)).values())
    assert all(step.done() for step in steps)
    assert ran() == ["a", "b", "c"]


def test_two_runners_share_the_work(made):
    make, ran = made
    steps = make(dict.fromkeys("abcd", (0.3, ())))
    other = begin(steps)
    assert len(ended(run(steps))) == 4
    other.join()
    assert sorted(ran()) == list("abcd")


def test_when_the_time_is_up_the_process_is_stopped_and_later_started_again(made):
    make, ran = made
    plan = {"a": (0, ()), "b": (60, ()), "c": (0, ())}
    found = ended(run(make(plan), deadline=time.monotonic() + 3))
    assert [(name, event.stopped, event.problem) for name, event in found.items()] == [
        ("a", False, ""),
        ("b", True, ""),
    ]
    assert ran() == ["a", "b"]
    assert len(ended(run(make(plan | {"b": (0, ())})))) == 3
    assert ran() == ["a", "b", "b", "c"]


def test_a_failure_is_named_and_only_what_needs_it_is_left_out(made):
    make, ran = made
    plan = {"bad": (0, ()), "worse": (0, ("bad",)), "worst": (0, ("worse",)), "well": (0, ())}
    found = ended(run(make(plan)))
    assert {name: (event.problem, event.ran) for name, event in found.items()} == {
        "bad": ("it went wrong", True),
        "worse": ("left out, because bad has failed", False),
        "worst": ("left out, because worse has failed", False),
        "well": ("", True),
    }
    assert ran() == ["bad", "well"]


def test_one_that_says_nothing_or_leaves_nothing_is_a_failure_too(made):
    make, _ = made
    found = ended(run(make({"mute": (0, ()), "empty": (0, ())})))
    assert found["mute"].problem == "exit status -9"
    assert found["empty"].problem == "it ended well, but its result is not there"


def test_a_caller_that_stops_stops_the_processes(made):
    make, _ = made
    steps, began = make({"a": (60, ()), "b": (60, ())}), time.monotonic()
    with closing(run_steps(steps, jobs=2, program=(sys.executable, "-c", PROGRAM))) as events:
        assert [next(events), next(events)] == [StepStarted(step=step) for step in steps]
    assert time.monotonic() - began < 30
    assert not any(step.done() for step in steps)
    # Their locks are free again.
    assert len(ended(run(make({"a": (0, ()), "b": (0, ())})))) == 2
