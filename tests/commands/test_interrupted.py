"""Runs that are killed for real, in processes of their own, must end where an uninterrupted one ends."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from hashlib import sha256
from random import Random

import numpy as np
import pytest

from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.recipe import read

RECIPE = """
name: interrupted
data: {kind: npz, path: %s}
augment: {crop: 1}
threat: {eps: 0.05}
student: {kind: convnet, channels: [8], kernel: 3, hidden: [32]}
method: {kind: pgd_at, inner: {steps: 1}}
training:
  epochs: 3
  batch: 8
  optimiser: {kind: adamw, lr: 0.002}
  averaging: {kind: ema, decay: 0.99}
  precision: fp32
  checkpoint_minutes: 0
selection: {examples: 40, trial: {name: pgd-1, attack: {steps: 1}}}
"""
BATCHES = 162  # an epoch: 1293 images in batches of 8


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    # The digits as arrays: a process that reads these need not import scikit-learn, which takes longer than the run.
    arrays = {}
    for split in ("train", "test"):
        images = Digits().load(split)
        arrays |= {f"x_{split}": images.images[:, 0].numpy(), f"y_{split}": images.labels.numpy()}
    np.savez(folder / "digits.npz", **arrays)
    file = folder / "recipe.yaml"
    file.write_text(RECIPE % (folder / "digits.npz"))
    return file


def start(*arguments, **options):
    # It looks, and here saves, after every batch.
    code = "from overproof.training import pace; pace.LOOK_SECONDS = 0; from overproof.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    # A shell that starts tests in the background has them, and so their children, ignore Ctrl-C.
    return subprocess.Popen(command, **{"preexec_fn": _heed_interrupts, **pipes, **options})


def _heed_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def step_of(folder):
    """Return the update of the newest checkpoint, -1 where there is none."""
    return max((int(file.name.split("-")[0]) for file in (folder / "checkpoint").glob("0*.pt")), default=-1)


def stop_at(process, folder, step, number, delay=0.0):
    """Send a signal when a checkpoint of this step or a later one has appeared."""
    limit = time.monotonic() + 100
    while step_of(folder) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    time.sleep(delay)
    assert process.poll() is None, "it finished before it could be stopped"
    process.send_signal(number)
    return finish(process)


def outcome(folder):
    """Return everything that must not depend on interruptions."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        del record["seconds"], record["processor_seconds"]
    files = ("model.safetensors", "last.safetensors", "model.json", "last.json", "recipe.yaml")
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in files} | {"metrics": metrics}


def test_killed_interrupted_and_damaged_it_ends_at_the_same_bytes(recipe, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, out, err = finish(start("train", recipe, "--out", whole))
    assert (code, err) == (0, "")
    assert "epoch 3/3: adv " in out

    draws = Random(0)

    def cut(step, number=signal.SIGKILL, resume=True):
        process = start("train", recipe, "--out", broken, *(["--resume"] if resume else []))
        return stop_at(process, broken, step, number, delay=draws.uniform(0, 0.03))

    code, *_ = cut(50, resume=False)
    assert code == -signal.SIGKILL
    assert step_of(broken) % BATCHES > 0  # inside an epoch

    code, _, err = cut(BATCHES + 50, signal.SIGINT)
    assert code == 130
    kept = step_of(broken)
    epoch, batch = divmod(kept, BATCHES)
    done = f"batch {batch} of {BATCHES} in epoch {epoch + 1} of 3" if batch else f"epoch {epoch} of 3"
    assert err == f"stopped after {done}, which is saved in {broken / 'checkpoint'}; continue with --resume\n"
    assert kept >= BATCHES + 50

    newest = max((broken / "checkpoint").glob("0*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    code, _, err = cut(kept + 1)
    assert code == -signal.SIGKILL
    assert err == (
        f"{newest}: truncated or altered, its content does not match its name; refused; the one before is used\n"
    )

    code, out, err = finish(start("train", recipe, "--out", broken, "--resume"))
    assert code == 0, err
    assert outcome(broken) == outcome(whole)
    assert len(outcome(whole)["metrics"]) == 3
    # What a killed write left behind is never taken for a file of the run.
    rest = [file.name for file in broken.rglob("*") if file.is_file()]
    assert all(name.endswith(".tmp") for name in rest if name.startswith("."))


def test_a_full_disk_is_one_sentence_and_costs_no_file(recipe, tmp_path):
    """The process may not write files beyond 90 kB: weights fit, the state of the optimiser beside them does not."""
    folder = tmp_path / "run"
    edits = (
        "--set",
        "training.epochs=1",
        "--set",
        "training.averaging=null",
        "--set",
        "student={kind: mlp, hidden: [250]}",
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))

    code, out, err = finish(start("train", recipe, *edits, "--out", folder, preexec_fn=limit))
    assert code == 2
    assert "epoch 1/1: " not in out
    assert err.count("\n") == 1
    assert err.startswith(f"overproof: {folder / 'checkpoint'}")
    assert err.endswith(": cannot be written (File too large); what was there is kept\n")
    assert [file.name[:9] for file in (folder / "checkpoint").iterdir()] == ["000000000"]
    assert {file.name for file in folder.iterdir()} == {"checkpoint", "recipe.yaml"}

    train(read(recipe, edits[1::2]), folder, resume=True, device="cpu")
    assert (folder / "last.safetensors").is_file()
