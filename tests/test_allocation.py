import json
import os
import platform
import subprocess
import sys

import pytest

# A step of a small network: blocks of 1 MiB are taken, written to, and given back. Counted are the pages that the
# system has to provide again in later steps: before the process keeps what it was given back, and from then on.
STEPS = """
import ctypes, json, resource
from overproof.allocation import keep_freed_memory
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
