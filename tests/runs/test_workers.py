import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from overproof.errors import InputError
from overproof.runs import workers as module
from overproof.runs.workers import Task, cores, performing


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Return a function: the ``module:name`` of ``work``, made of these lines, for every worker to import."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def make(*lines):
        body = "\n    ".join(lines)
        (tmp_path / "made.py").write_text(
            f"import os, time\nfrom overproof.errors import InputError\n\ndef work(**words):\n    {body}\n"
        )
        return "made:work"

    return make


def tasks(*names, **after):
    """Return tasks that are told their own name."""
    return [
        Task(name=name, words={"name": name}, after=tuple(after.get(name, "")), sentence=f"about {name}")
        for name in names
    ]


def test_results_are_those_of_the_function(function):
    heard = list(performing(tasks("a", "b", "c"), function("print('no answer')", "return [words, 1 / 3]"), jobs=2))
    assert {one.task.name: one.result for one in heard if one.ended} == {n: [{"name": n}, 1 / 3] for n in "abc"}
    assert [one.task.sentence for one in heard if not one.ended] == ["about a", "about b", "about c"]


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_what_waits_begins_after_what_it_needs_and_never_more_at_a_time(function, jobs):
    many = tasks("a", "b", "c", "d", "e", b="a", d="bc")
    running, done, most = set(), set(), 0
    for task, ended, _ in performing(many, function("return None"), jobs=jobs):
        if ended:
            running.remove(task.name)
            done.add(task.name)
        else:
            assert done.issuperset(task.after)
            running.add(task.name)
            most = max(most, len(running))
    assert done == set("abcde")
    assert most <= jobs


def test_independent_work_is_done_at_the_same_time(function, tmp_path):
    """Each waits for the other to have begun."""
    meet = function(
        f"place = {str(tmp_path)!r}",
        "open(os.path.join(place, words['name']), 'w').close()",
        "while not all(os.path.exists(os.path.join(place, name)) for name in 'ab'): time.sleep(0.01)",
        "return os.getpid()",
    )
    assert len({one.result for one in performing(tasks("a", "b"), meet, jobs=2) if one.ended}) == 2


def test_one_process_after_another_where_there_is_one(function):
    heard = list(performing(tasks("a", "b"), function("return os.getpid()"), jobs=1))
    assert len({one.result for one in heard if one.ended}) == 1
    assert [(one.task.name, one.ended) for one in heard] == [("a", False), ("a", True), ("b", False), ("b", True)]


def test_as_many_as_cores_and_threads_allow_where_nobody_says(function, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 4)
    threads = function("return os.environ['OMP_NUM_THREADS']")
    for given, wanted in ((None, ("1", 4)), ("2", ("2", 2)), ("9", ("9", 1))):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        heard = list(performing(tasks(*"abcde"), threads))
        found = Counter(one.result for one in heard if one.ended)
        begun = next(number for number, one in enumerate(heard) if one.ended)
        assert (found, begun) == (Counter({wanted[0]: 5}), wanted[1])


def test_an_error_is_its_sentence_and_stops_the_others(function):
    odd = function("if words['name'] == 'b': raise InputError('b is odd')", "time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^b is odd$"):
        list(performing(tasks("a", "b"), odd, jobs=2))
    assert time.monotonic() - began < 50


def test_a_killed_process_is_told(function):
    events = performing(tasks("a"), function("os.kill(os.getpid(), 9)"), jobs=1)
    with pytest.raises(InputError, match="has ended with exit status -9; the same command continues"):
        list(events)


def test_a_caller_that_stops_stops_the_processes(function, tmp_path):
    note = f"open(os.path.join({str(tmp_path)!r}, words['name']), 'w').write(str(os.getpid()))"
    slow = function(note, "time.sleep(60 if words['name'] == 'b' else 0)")
    events = performing(tasks("a", "b", "c", b="a", c="a"), slow, jobs=2)
    while not next(events).ended:
        pass
    assert not next(events).ended  # b begins
    pid = int((tmp_path / "a").read_text())
    os.kill(pid, 0)
    events.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_ctrl_c_is_left_to_the_process_in_front(function):
    heard = list(performing(tasks("a"), function("os.kill(os.getpid(), 2)", "return 'alive'"), jobs=1))
    assert heard[-1].result == "alive"


def test_an_answer_is_one_line_of_json(function):
    """The protocol, as another process sees it."""
    code = "from made import work; from overproof.runs.workers import serve; serve(work)"
    function("print('aside')", "return words")
    asked = "".join(json.dumps({"name": name}) + "\n" for name in "ab")
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, input=asked, capture_output=True, text=True, timeout=120, check=True)
    assert [json.loads(line) for line in found.stdout.splitlines()] == [{"result": {"name": n}} for n in "ab"]
    assert found.stderr == "aside\naside\n"


def test_there_is_a_core():
    assert 1 <= cores() <= os.cpu_count()


@pytest.mark.parametrize(
    ("said", "threads"), [("", 1), ("2", 2), ("4,2", 4), (" 3 ", 3), ("x", 1), ("0", 1), ("-1", 1)]
)
def test_threads_are_those_that_the_user_gives(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert module._threads() == threads
