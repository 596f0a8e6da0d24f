"""Ten thousand strange files of every kind, read as the commands read them.

    python -m reliability.fuzz --out FOLDER [--kinds recipes ONNX] [--inputs 10000] [--seed 0]

Resumable: what was tried is kept in FOLDER; the same command goes on. Prints a table, and a line for each input that
was neither accepted nor refused in one sentence. ``--show KIND NUMBER`` writes one input to the standard output.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reliability.kinds import Kind, kinds, make_good, warmed
from reliability.sandbox import outcomes
from reliability.stages import forked, waited, warm

_PORTION = 500


def tried(kind: Kind, numbers: range, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Return how often each outcome came of inputs of a kind, and what was wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for one in outcomes(
        lambda number: kind.make(seed, number), kind.read, numbers, folder=folder, warm=lambda: warmed({"": kind})
    ):
        counts[one.word] += 1
        if one.word == "wrong":
            wrong.append(f"{kind.name} {one.number}: {one.what}")
    return counts, wrong


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", default=())
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", nargs=2)
    wish = parser.parse_args()
    wish.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        warm()
        said = Path(place) / "said"
        if waited(forked(lambda: make_good(Path(place)), said)) != 0:
            print(said.read_text(), file=sys.stderr)
            return 1
        known = kinds(Path(place))
        if wish.show:
            sys.stdout.buffer.write(known[wish.show[0]].make(wish.seed, int(wish.show[1])))
            return 0
        rows = [_course(known[name], wish, Path(place)) for name in wish.kinds or known]
    print("| kind | inputs | accepted | refused | wrong | seconds |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| {kind} | {inputs:,} | {accepted:,} | {refused:,} | {wrong:,} | {seconds:.0f} |".format(**row))
    return int(any(row["wrong"] for row in rows))


def _course(kind: Kind, wish: argparse.Namespace, place: Path) -> Mapping[str, Any]:
    """Go on with a kind to the end; what is done is written down after every portion."""
    file = wish.out / f"{kind.name.replace(' ', '-')}-{wish.seed}.json"
    row: dict[str, Any] = {"kind": kind.name, "inputs": 0, "accepted": 0, "refused": 0, "wrong": 0, "seconds": 0.0}
    row |= {"found": []}
    if file.is_file():
        row = json.loads(file.read_text())
    while row["inputs"] < wish.inputs:
        started = time.monotonic()
        numbers = range(row["inputs"], min(row["inputs"] + _PORTION, wish.inputs))
        counts, wrong = tried(kind, numbers, wish.seed, place)
        for word in ("accepted", "refused", "wrong"):
            row[word] += counts[word]
        row["inputs"] = numbers.stop
        row["seconds"] += time.monotonic() - started
        row["found"] += wrong
        for line in dict.fromkeys(re.sub(r"\d+", "#", each) for each in wrong):
            print(line, flush=True)
        file.write_text(json.dumps(row, indent=1))
    return row


if __name__ == "__main__":
    sys.exit(_main())
