import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from overproof.memory import piecewise, ran_out, within_memory

FULL = torch.OutOfMemoryError("no room")
ON_A_PROCESSOR = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("problem", [FULL, ON_A_PROCESSOR, MemoryError()])
def test_work_that_does_not_fit_is_done_in_halves(problem):
    tried = []

    def work(chunk):
        tried.append(chunk)
        if chunk > 5:
            raise problem
        return "done"

    assert within_memory(work, 20) == ("done", 5)
    assert tried == [20, 10, 5]


def test_not_even_one_is_the_devices_own_error():
    def work(chunk):
        raise FULL

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        within_memory(work, 4)


def test_another_problem_is_not_taken_for_memory():
    def work(chunk):
        raise RuntimeError("shapes do not match")

    assert not ran_out(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(work, 8)
    with pytest.raises(RuntimeError, match="shapes"):
        piecewise(work, torch.arange(3), 1)


def test_every_row_is_worked_on_in_parts_that_fit_and_what_is_too_large_is_left():
    done, large = [], {3, 11}

    def work(rows):
        if len(rows) > 4 or large & set(rows.tolist()):
            raise FULL
        done.extend(rows.tolist())

    left = piecewise(work, torch.arange(20), 16)
    assert left.tolist() == [3, 11]
    assert done == [row for row in range(20) if row not in large]


def test_nothing_to_do():
    assert len(piecewise(lambda rows: 1 / 0, torch.arange(0), 4)) == 0


# A step of a small network: blocks of 1 MiB are taken, written to, and given back. Counted are the pages that the
# system has to provide anew in later steps: before the process keeps what it was given back, and from then on.
STEPS = """
import ctypes, json, resource
from overproof.memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def step():
    blocks = [libc.malloc(2**20) for _ in range(20)]
    for block in blocks:
        ctypes.memset(block, 1, 2**20)
    for block in blocks:
        libc.free(block)
def faults():
    for _ in range(3):
        step()
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first
before = faults()
keep_freed_memory()
print(json.dumps([before, faults()]))
"""


def page_faults(**told):
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    said = subprocess.run([sys.executable, "-c", STEPS], check=True, capture_output=True, text=True, env=given | told)
    return json.loads(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_that_was_given_back_is_kept_from_then_on():
    before, after = page_faults()
    assert after < 100 < 10_000 < before, (before, after)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_where_the_environment_says_how_memory_is_kept_it_is_left_so():
    before, after = page_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert min(before, after) > 10_000, (before, after)
