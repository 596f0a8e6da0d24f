import json
import os
import subprocess
import sys

import pytest
import torch

from overproof.commands.evaluate import evaluate
from overproof.evaluation.shards import Shard

NETWORK = """
import torch
from torch import nn


def make(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    means = torch.load("means.pt", weights_only=True)
    network[1].weight.data = means
    network[1].bias.data = -means.square().sum(dim=1) / 2
    return network
"""


def timeless(found):
    """Return a found tree without what no two runs share: how long it took."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name != "seconds"}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def test_alone_a_process_does_everything(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    shard = Shard.here()
    assert shard == Shard(0, 1)
    assert all(shard.mine(number) for number in range(5))
    blocks = {1: {"label": torch.zeros(2)}}
    assert shard.collected(blocks) is blocks


def test_collected_blocks_are_everyones_in_order(group):
    def work(processes):
        shard = Shard(processes.rank, processes.count)
        return shard.collected({n: {"label": torch.tensor([n])} for n in range(5) if shard.mine(n)})

    for found in group(work):
        assert list(found) == list(range(5))
        assert [int(state["label"]) for state in found.values()] == list(range(5))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_block_has_one_process(count):
    shards = [Shard(rank, count) for rank in range(count)]
    assert [shard.leads for shard in shards] == [True] + [False] * (count - 1)
    for number in range(20):
        assert sum(shard.mine(number) for shard in shards) == 1
    loads = [sum(shard.mine(number) for number in range(20)) for shard in shards]
    assert max(loads) - min(loads) <= 1


def test_two_processes_write_what_one_writes(tmp_path, monkeypatch):
    from overproof.data.sources import Digits

    train = Digits().load("train")
    pixels = train.images.float().flatten(1) / 255
    torch.save(torch.stack([pixels[train.labels == label].mean(dim=0) for label in range(10)]), tmp_path / "means.pt")
    (tmp_path / "sharded_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    options = {"examples": 70, "batch": 16, "eps": "0.1", "save_adversarial": True, "reliability": False}
    attacks, word = ("apgd-ce-20", "square-100"), "sharded_net:make"
    single = evaluate(word, data="digits", attacks=attacks, teacher=word, out="one", device="cpu", **options)
    assert 0 < single["worst"]["passed"] < single["clean"]["passed"]

    words = ["evaluate", word, "--data", "digits", "--attacks", ",".join(attacks), "--teacher", word, "--out", "two"]
    words += [
        "--examples",
        "70",
        "--batch",
        "16",
        "--eps",
        "0.1",
        "--save-adversarial",
        "--no-reliability",
        "--device",
        "cpu",
    ]
    # On CPUs accelerate leaves the starting of processes to torchrun.
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "overproof", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Only one of them speaks, and only once.
    assert done.stdout.count("report: ") == 1
    assert done.stdout.count("apgd-ce-20: robust") == 3  # of its own three of five blocks
    one, two = ([(tmp_path / name / file).read_bytes() for file in FILES] for name in ("one", "two"))
    assert one[1:] == two[1:]
    assert timeless(json.loads(two[0])) == timeless(json.loads(one[0])) == timeless(single)
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == sorted([*FILES, "evaluations", "report.html"])


FILES = ("evaluation.json", "examples.jsonl", "adversarial.safetensors")
