"""``python -m reliability.behaviour FILE [--against OTHER]``: what the commands answer, for comparing two versions.

It trains small networks on the embedded digits, attacks, certifies, compares and exports them, and writes digests of
the weights and every JSON file without what changes from run to run (times, paths, versions). With ``--against`` it
compares with the file that another version wrote, figures to 1e-12, and exits with 1 where something differs.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from math import isclose
from pathlib import Path
from typing import Any

import torch

import overproof
from overproof.shipped import find_recipe

CHANGES = ("seconds", "versions", "hardware", "call", "cost", "bytes", "sha256", "latency", "hours", "time", "pace")
"""Keys, or parts of keys, whose values are another run's."""
NEW = ("known_counter_examples",)
"""Keys that a version may have and an earlier one not."""
RECIPES = {
    "at": ("digits/at", ()),
    "ard": ("digits/ard", ()),
    "mtard": ("digits/ard", ("method={kind: mtard}", "teachers.clean=at")),
    "rrm": ("digits/ard", ("method={kind: rrm}",)),
    "faithful": ("digits/ard", ("method={kind: faithful}",)),
}
"""Recipes and their edits, in the order in which they are trained; the first is everybody's teacher."""


def answers() -> dict[str, Any]:
    """Return what the commands answer in the current folder."""
    found: dict[str, Any] = {}
    for name, (recipe, edits) in RECIPES.items():
        teacher = () if name == "at" else ("teachers.robust=at",)
        read = overproof.read(find_recipe(recipe), (*teacher, *edits, "training.epochs=2"))
        overproof.train(read, Path(name), device="cpu")
        overproof.evaluate(name, examples=40, device="cpu", attacks="quick")
    overproof.certify("ard", examples=40, device="cpu", teacher="at", bound="crown", seconds=60, eps="0.02")
    overproof.export("ard", to="onnx")
    overproof.evaluate("ard/model.onnx", examples=20, device="cpu", attacks="quick", out="of-file")
    overproof.check_teacher("at", examples=40, device="cpu")
    overproof.compare(["at", "ard"])
    for file in sorted(Path().rglob("*.json*")):
        if ".ipynb" not in file.name and "checkpoint" not in file.parts:
            lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            found[str(place(file))] = [lasting(json.loads(line)) for line in lines]
    for file in sorted(Path().rglob("model.safetensors")):
        found[str(file)] = sha256(file.read_bytes()).hexdigest()
    return found


def place(file: Path) -> Path:
    """Return a file's place without the key of its question, in which every digest has a part."""
    return Path(re.sub(r"-[0-9a-f]{12}(?=/)", "", str(file)))


def lasting(value: Any) -> Any:
    """Return a JSON value without what changes from run to run."""
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if not any(word in name for word in CHANGES)}
        return {name: lasting(one) for name, one in kept.items() if name not in NEW}
    if isinstance(value, list):
        return [lasting(one) for one in value]
    return value


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            if name in one and name in other:
                yield from differences(one[name], other[name], f"{where}/{name}")
            else:
                yield f"{where}/{name}: only {'before' if name in other else 'now'}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, where=f"{where}/{number}")
    elif isinstance(one, float) and isinstance(other, float) and isclose(one, other, rel_tol=1e-12):
        return  # the same figure by another formula
    elif one != other:
        yield f"{where}: {one!r:.80} now, {other!r:.80} before"


def main() -> None:
    """Write what the commands answer, and compare."""
    words = argparse.ArgumentParser(prog="python -m reliability.behaviour", description=__doc__)
    words.add_argument("file", type=Path)
    words.add_argument("--against", type=Path)
    asked = words.parse_args()
    file, against = asked.file.resolve(), asked.against and asked.against.resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            found = answers()
        finally:
            os.chdir(before)
    file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{len(found)} files")
    if against:
        lines = list(differences(found, json.loads(against.read_text())))
        print("\n".join(lines) or "nothing differs")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
