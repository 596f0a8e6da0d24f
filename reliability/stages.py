"""The work that is disturbed: a small training, its evaluation, certification and export; and what must come of it."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.export import export
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.recipe import parse

RECIPE = """
name: toy
data: {kind: digits}
threat: {eps: 2/255}
normalise: {mean: [0.3], std: [0.4]}
student: {kind: convnet, channels: [4], kernel: 3, stride: [2], padding: 1, hidden: [16]}
method: {kind: pgd_at, inner: {steps: 3}}
training: {epochs: 5, batch: 64, optimiser: {kind: adamw, lr: 0.01}, averaging: {kind: ema, decay: 0.9}}
selection: {examples: 60, trial: {name: pgd-3, attack: {steps: 3}}}
evaluation: {attacks: [{name: fgsm, attack: {steps: 1, start: none}}, {name: pgd-10, attack: {steps: 10}}]}
"""
_OF_TIME = frozenset({"seconds", "processor_seconds", "latency", "stage_seconds"})


@dataclass(frozen=True)
class Stage:
    """One command on a run folder, resuming where it can, and the files that it leaves."""

    name: str
    work: Callable[[Path], object]
    files: tuple[str, ...]


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "train",
            lambda folder: train(parse(RECIPE), folder, device="cpu", resume=True),
            ("model.safetensors", "last.safetensors", "model.json", "last.json", "metrics.jsonl", "recipe.yaml"),
        ),
        Stage(
            "evaluate",
            lambda folder: evaluate(
                folder, examples=60, batch=10, device="cpu", resume=True, save_adversarial=True, reliability=False
            ),
            ("evaluation.json", "examples.jsonl", "adversarial.safetensors"),
        ),
        Stage(
            # Up to crown: what alpha and split find depends on the seconds that they are given.
            "certify",
            lambda folder: certify(folder, examples=60, batch=10, bound="crown", device="cpu", resume=True),
            ("certificate.json", "certificate.jsonl", "counterexamples.safetensors"),
        ),
        Stage("export", lambda folder: export(folder, to="onnx"), ("model.onnx", "model.onnx.json")),
    )
}


def warm() -> None:
    """Import what the stages import late, so that a forked process need not."""
    names = ("onnx", "onnxruntime", "onnxscript", "sklearn.datasets", "torch.export", "torch._dynamo")
    for name in (*names, "torch.distributed.fsdp", "torch.distributed.nn", "torch._inductor.config"):
        import_module(name)
    Digits().load("test")


def contents(folder: Path, stage: Stage) -> dict[str, str]:
    """Return a digest of every file that a stage leaves, without its folder and the seconds it took."""
    found = {}
    for name in stage.files:
        body = (folder / name).read_bytes().replace(str(folder).encode(), b"RUN")
        if name.endswith(".json"):
            body = json.dumps(_timeless(json.loads(body))).encode()
        elif name.endswith(".jsonl"):
            body = "\n".join(json.dumps(_timeless(json.loads(line))) for line in body.splitlines()).encode()
        found[name] = sha256(body).hexdigest()
    return found


def left_over(folder: Path) -> list[str]:
    """Return the files that a finished run has no use for."""
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if ".tmp" in file.name or "-state" in file.name]


def forked(work: Callable[[], object], said: Path) -> int:
    """Start the work in a process of its own and return its number; what it says of itself goes into a file.

    It ends with 0; with 2 after a sentence, which it writes down; with 1 after any other exception.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
        status = 0
    except InputError as problem:
        sys.stderr.write(f"overproof: {problem}\n")
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def waited(process: int) -> int:
    """Wait for a process and return how it ended: its status, or the negative number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _timeless(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _timeless(value) for key, value in tree.items() if key not in _OF_TIME}
    return [_timeless(value) for value in tree] if isinstance(tree, list) else tree
