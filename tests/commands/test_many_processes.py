"""Training by several processes, from the recipe to the run folder; killed for real, and launched by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from overproof.commands.train import train, training
from overproof.errors import AgreedError, InputError
from overproof.processes import Processes
from overproof.recipe import dump
from overproof.runs.folder import Run
from overproof.stopping import Stop, Stopped
from overproof.training import loop as loop_module
from overproof.training.checkpoint import load_checkpoint

STUDENT = "student={kind: convnet, channels: [4], kernel: 3, hidden: [16]}"
EDITS = (
    "method={kind: free_at, replays: 2, threat: {eps: 0.05}}",
    "training.batch=32",
    "training.epochs=2",
    "training.optimiser={kind: sgd, lr: 0.05}",
    "training.checkpoint_minutes=0",
    STUDENT,
)


def as_one_of(processes):
    """Let everything in this forked process know which one it is."""
    Processes.here = classmethod(lambda cls, **_: cls(processes.rank, processes.count))


def whole(news):
    """Return what is new at the ends of epochs; how often it is inside them is the clock's."""
    return [one for one in news if one.progress.whole]


def distance(one, other, name="last"):
    first, second = (load_file(Path(folder) / f"{name}.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


ROUNDED = 1e-9
"""What float64's rounding, 1e-16, may have grown into after 90 updates; another order or draw is above 1e-3."""


@pytest.fixture(scope="module")
def alone(float64, toy, tmp_path_factory):
    """The run of one process, in float64: what two round otherwise decides no sign()."""
    with float64():
        return train(toy(*EDITS), tmp_path_factory.mktemp("alone") / "run", device="cpu")


def test_two_processes_make_the_run_of_one(exactly, group, toy, alone, tmp_path):
    recipe, out = toy(*EDITS), tmp_path / "run"

    def work(processes):
        as_one_of(processes)
        return [(one.progress, one.validation, one.warnings) for one in whole(training(recipe, out, device="cpu"))]

    heard = group(work)
    assert [[progress.epoch for progress, *_ in news] for news in heard] == [[1, 2], []]
    assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in alone.folder.iterdir())
    assert max(distance(out, alone.folder, name) for name in ("model", "last")) < ROUNDED
    assert (out / "recipe.yaml").read_text() == dump(recipe)
    for found, wanted in zip(Run(out).metrics(), alone.metrics(), strict=True):
        assert found["terms"]["adv"] == pytest.approx(wanted["terms"]["adv"], abs=ROUNDED)
        assert (found["processes"], wanted["processes"]) == (2, 1)
        for same in ("validation", "best_epoch", "learning_rate", "passes", "hardware"):
            assert found[same] == wanted[same]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_the_others_say_so_and_a_resumed_run_ends_the_same(exactly, group, toy, alone, tmp_path, victim):
    recipe, out = toy(*EDITS), tmp_path / "run"

    def work(processes):
        as_one_of(processes)
        learn = loop_module.Loop._learn

        def mortal(self, batch):
            if (self.epoch, self.batch, self.processes.rank) == (1, 3, victim):
                os.kill(os.getpid(), signal.SIGKILL)
            learn(self, batch)

        loop_module.Loop._learn = mortal
        for _ in training(recipe, out, device="cpu"):
            pass

    def proceed(processes):
        as_one_of(processes)
        return [one.progress.epoch for one in whole(training(recipe, out, resume=True, device="cpu"))]

    found = group(work)
    assert found[victim] is None
    survivor = found[1 - victim]
    assert type(survivor) is InputError
    sentence = "another of the 2 processes has gone; the last checkpoint is in"
    assert str(survivor) == f"{sentence} {out / 'checkpoint'}, continue with --resume"
    assert group(proceed) == [[2], []]
    assert max(distance(out, alone.folder, name) for name in ("model", "last")) < ROUNDED


def test_where_one_is_asked_to_end_all_save_after_the_same_step(group, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("overproof.training.pace.LOOK_SECONDS", 0)
    recipe, out = toy(*EDITS), tmp_path / "run"

    def work(processes):
        as_one_of(processes)
        stop, learn = Stop(), loop_module.Loop._learn

        def asked(self, batch):
            if (self.epoch, self.batch, self.processes.rank) == (1, 3, 1):
                stop.ask(15)
            learn(self, batch)

        loop_module.Loop._learn = asked
        try:
            return len(list(training(recipe, out, device="cpu", stop=stop)))
        except Stopped as end:
            return end.number, str(end)

    first, second = group(work)
    assert first == second
    assert first[0] == 15
    assert first[1].startswith("stopped after batch 4 of 41 in epoch 2 of 2, which is saved in ")
    state, _ = load_checkpoint(Run(out).checkpoints)
    assert state["position"] == {"epoch": 1, "batch": 4}


def test_what_one_finds_wrong_all_say_before_anything_is_written(group, toy, tmp_path):
    """Every process meets the same sentence; the command line lets the first one say it."""

    def sentence(processes, recipe, out, **options):
        try:
            for _ in training(recipe, out, device="cpu", **options):
                pass
        except AgreedError as problem:
            return str(problem)

    taken, later = tmp_path / "taken", tmp_path / "later"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")

    def work(processes):
        as_one_of(processes)
        odd = toy("training.epochs=9") if processes.rank else toy()
        teacherless = toy("method.kind=ard", f"teachers.robust={tmp_path / 'nowhere'}")
        return [
            sentence(processes, odd, later),
            sentence(processes, toy("training.batch=45"), later),
            sentence(processes, toy(), taken),
            sentence(processes, teacherless, later),
        ]

    first, second = group(work)
    assert first == second
    assert first == [
        "process 1 of 2: its recipe is not the first process's (training.epochs: 2 -> 9); start all with the same",
        "2 processes cannot share a batch of 45 evenly; use training.batch=44, or a number of processes that divides "
        "it",
        f"{taken}: exists already; continue it with --resume or choose another --out",
        f"teacher 'robust': {tmp_path / 'nowhere'}: no such run folder",
    ]
    assert not later.exists()


def test_split_batchnorm_is_said_once(group, toy, squares, tmp_path):
    recipe = toy(
        f"data={{kind: npz, path: {squares()}}}",
        "student={kind: resnet, depth: 20, width: 0.5}",
        "training.batch=54",
        "selection.examples=10",
    )

    def work(processes):
        as_one_of(processes)
        return [news.warnings for news in training(recipe, tmp_path / "run", device="cpu")]

    said = ("BatchNorm sees one of 2 parts of each batch: torch synchronises it on GPUs only",)
    leading, other = group(work)
    assert (leading[0], other) == (said, [])
    assert sum(said[0] in warnings for warnings in leading) == 1


def test_torchrun_starts_the_processes_again_where_one_is_killed(group, toy, squares, tmp_path):
    """The whole way: a launcher, a kill, a restart that resumes, and one voice; to the bit the run of two unharmed."""
    recipe = toy(f"data={{kind: npz, path: {squares()}}}", *EDITS, "training.epochs=20", "training.batch=4")
    file, out = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(dump(recipe))
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max_restarts", "1"]
    words = ["train", str(file), "--out", str(out), "--device", "cpu", "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", *launch, "-m", "overproof", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Without the second one, processes started again may call those before them: pytorch issue 135712.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    limit = time.monotonic() + 100
    while len((out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").is_file() else []) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    (second,) = [child for child in children(process.pid) if rank(child) == "1"]
    os.kill(second, signal.SIGKILL)
    said, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    gone = ("stopped; the last checkpoint is in", "overproof: another of the 2 processes has gone; the last checkpoint")
    assert any(line.startswith(gone) for line in errors.splitlines())
    assert said.count("epoch 20/20: ") == said.count("run folder: ") == 1
    assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [*range(1, 21)]

    def work(processes):
        as_one_of(processes)
        return len(whole(training(recipe, tmp_path / "unharmed", device="cpu")))

    assert group(work)[0] == 20
    assert distance(out, tmp_path / "unharmed") == 0


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank(pid):
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(word.partition("=")[::2] for word in words).get("RANK")


def test_a_cell_of_a_sweep_may_be_trained_by_several(group, toy, tmp_path):
    from overproof.commands.sweep import read_sweep

    base, grid = tmp_path / "base.yaml", tmp_path / "grid.yaml"
    base.write_text(dump(toy("training.epochs=1")))
    grid.write_text(yaml.safe_dump({"base": "base.yaml", "axes": {"seed": [3, 4]}}))
    cell = read_sweep(grid).cell(1)

    def work(processes):
        as_one_of(processes)
        return len(whole(training(cell.recipe, tmp_path / cell.name, device="cpu")))

    assert group(work) == [1, 0]
    assert Run(tmp_path / "seed=4").recipe().name == "grid/seed=4"
