"""A few kills and failing calls; ``python -m reliability.kills`` and ``reliability.faults`` make many."""

import os
import subprocess
import sys
from pathlib import Path


def rows(*words):
    """Run one of the programs in a process without threads and return the rows of its table."""
    found = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return [line.strip("| ").split(" | ") for line in found.stdout.splitlines() if line.startswith("|")][2:]


def test_what_is_killed_ends_at_the_same_bits():
    found = rows("reliability.kills", "--kills", "6")
    assert [row[0] for row in found] == ["train", "evaluate", "certify", "export"]
    assert sum(int(row[1]) for row in found) == 6
    assert all(row[3] == row[4] and row[5] == "0" for row in found)


def test_a_disk_that_fails_at_some_call_costs_nothing():
    found = rows("reliability.faults", "--stages", "train", "evaluate", "--step", "17")
    assert [row[0] for row in found] == ["train", "evaluate"]
    assert all(int(row[1]) > 2 and row[2] == "0" for row in found)
