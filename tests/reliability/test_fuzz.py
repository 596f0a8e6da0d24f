"""Some strange files of every kind; ``python -m reliability.fuzz`` tries ten thousand of each."""

import os
import subprocess
import sys
from pathlib import Path

NAMES = (
    *("recipes", "suites", "VNN-LIB", "model.json", "evaluation.json", "examples.jsonl", "metrics.jsonl"),
    *("PyTorch checkpoints", "safetensors", "own checkpoints", "parquet", "npz", "images", "ONNX"),
)


def test_strange_files_of_every_kind_are_read_or_refused_in_one_sentence(tmp_path):
    """In a process of its own: one that has threads must not fork readers."""
    found = subprocess.run(
        [sys.executable, "-m", "reliability.fuzz", "--out", str(tmp_path), "--inputs", "60", "--seed", "1"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line.strip("| ").split(" | ") for line in found.stdout.splitlines() if line.startswith("|")][2:]
    assert {row[0] for row in rows} == set(NAMES)
    assert all(row[1] == "60" and int(row[3]) > 0 and row[4] == "0" for row in rows)
