"""The tests that train, computed as other CPUs would: python -m tests.anycpu [NAME ...] [-- PYTEST WORDS].

Torch's own kernels (3) meet one and two threads, and oneDNN's (4) with and without bf16. MKL is held to what the same
CPU would offer it. A CPU that lacks an instruction set computes with the next one below: the list runs
on any machine, and is complete where the CPU has AMX.

Prints a line per setting and exits with 1 where a test failed in one of them.
"""

import os
import subprocess
import sys
import time

from overproof.runs.workers import cores

# What compares two ways of computing a training, or expects something of its outcome; name other folders behind "--".
TESTS = (
    "tests/golden",
    "tests/integrations",
    "tests/methods",
    "tests/training",
    "tests/commands/test_many_processes.py",
    "tests/commands/test_train_ends.py",
)
TORCH = {"default": "COMPATIBLE", "avx2": "AVX2", "avx512": "AVX512"}  # with MKL's name of the same
ONEDNN = {"avx2": "AVX2", "avx512": "AVX512_CORE", "bf16": "AVX512_CORE_BF16", "amx": "DEFAULT"}


SETTINGS = (
    ("default", "avx2", "1"),
    ("default", "amx", "2"),
    ("avx2", "avx512", "2"),
    ("avx2", "bf16", "1"),
    ("avx512", "avx2", "2"),
    ("avx512", "amx", "1"),
)


def settings() -> dict[str, dict[str, str]]:
    """Return the environment of every setting, by its name: torch's instructions, oneDNN's, threads."""
    return {
        f"{torch}-{onednn}-{threads}": {
            "ATEN_CPU_CAPABILITY": torch,
            "MKL_CBWR": TORCH[torch],
            "ONEDNN_MAX_CPU_ISA": ONEDNN[onednn],
            "OMP_NUM_THREADS": threads,
        }
        for torch, onednn, threads in SETTINGS
    }


def main(words: list[str]) -> int:
    """Run what is named, or all."""
    names, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    known = settings()
    for name in names:
        if name not in known:
            print(f"{name}: no such setting; there are {', '.join(known)}")
            return 2
    tests = [] if any(word.startswith("tests") for word in options) else list(TESTS)
    failed = 0
    for name in names or known:
        began = time.monotonic()
        # Processes times threads are the cores: threads that wait for each other's cores take many times as long.
        processes = max(1, min(8, cores() // int(known[name]["OMP_NUM_THREADS"])))
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "--dist", "worksteal", "--no-header"]
        found = subprocess.run(
            [*command, "-p", "no:cacheprovider", *tests, *options],
            env={**os.environ, **known[name]},
            capture_output=True,
            text=True,
        )
        lines = found.stdout.splitlines()
        said = lines[-1].strip("= ") if lines else found.stderr.strip()
        print(f"{name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
        print("".join(f"    {line}\n" for line in lines if line.startswith(("FAILED", "ERROR"))), end="", flush=True)
        failed += found.returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
