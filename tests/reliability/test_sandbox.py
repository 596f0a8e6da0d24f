"""The watch over readers sees what it is there to see."""

import os
import socket
import subprocess
import sys

import pytest
from reliability.sandbox import outcomes

from overproof.errors import InputError


def refuse(_):
    raise InputError("no")


def two_lines(_):
    problem = InputError("no")
    problem.args = ("no\nno",)  # it writes itself in one line otherwise
    raise problem


def spawn(_):
    subprocess.run([sys.executable, "-c", ""], check=True)


def hidden_spawn(_):
    try:
        os.system("true")
    except BaseException as problem:
        raise InputError("no") from problem


def connect(_):
    socket.socket().connect(("127.0.0.1", 9))


def run_text(_):
    exec(compile("x = 1", "foreign.py", "exec"), {})


def write_elsewhere(_):
    with open("/tmp/overproof-must-not-write", "w") as file:  # noqa: PTH123 - as foreign code would
        file.write("x")


def take_memory(_):
    return bytes(2**33)


def crash(_):
    os.abort()


def wait(_):
    os.read(os.pipe()[0], 1)


def work(_):
    while True:
        pass


CASES = {
    "accepted": (len, "accepted", ""),
    "refused": (refuse, "refused", "no"),
    "lines": (two_lines, "wrong", "2 lines"),
    "key": ({}.__getitem__, "wrong", "KeyError"),
    "program": (spawn, "wrong", "forbidden: subprocess.Popen"),
    "hidden": (hidden_spawn, "wrong", "forbidden: os.system"),
    "socket": (connect, "wrong", "forbidden: socket.connect"),
    "code": (run_text, "wrong", "forbidden: exec"),
    "file": (write_elsewhere, "wrong", "forbidden: open"),
    "memory": (take_memory, "wrong", "MemoryError"),
    "crash": (crash, "wrong", "the process ended: SIGABRT"),
    "wait": (wait, "wrong", "the process ended: SIGALRM"),
    "work": (work, "wrong", "the process ended: SIGPROF"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_reader_does_is_seen(name, tmp_path):
    read, word, what = CASES[name]
    found = list(
        outcomes(lambda number: b"x", read, range(2), folder=tmp_path, warm=int, seconds=0.1, patience=1, memory=2**31)
    )
    assert [(one.number, one.word) for one in found] == [(0, word), (1, word)]
    assert all(one.what.startswith(what) for one in found)
