"""``python -m benchmarks.mutation``: how many small changes of the source the tests notice.

``record`` measures which tests run which lines, ``control`` runs some of them on the source as it is, ``try`` tries a
seeded sample of mutants per package (none twice, but with ``--again`` those that lived), ``report`` writes
``benchmarks/results/mutation.json``.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.mutation import cover, fork
from benchmarks.mutation.mutants import Mutant, changed, mutants
from overproof.statistics import Proportion

RESULTS = Path(__file__).parent.parent / "results" / "mutation.json"
SEED = 19
CONTROLS = 8  # runs per package without a change, of which none should fail
BUDGET = 25.0  # seconds of tests per mutant, as measured without one


def modules(root: Path, package: str) -> list[str]:
    """Return the modules of a package, as paths below it."""
    base = root / "src/overproof"
    return sorted(str(file.relative_to(base)) for file in (base / package).glob("*.py") if file.name != "__init__.py")


def sample(root: Path, package: str, count: int) -> list[Mutant]:
    """Return ``count`` mutants of a package, drawn without replacement; a larger sample holds the smaller."""
    drawn = everything(root, package)
    random.Random(f"{SEED}-{package}").shuffle(drawn)
    return drawn[:count]


def spans(root: Path, mutant: Mutant) -> Iterator[tuple[int, int]]:
    """Yield the lines of the change, of what is around it, ..., of the module."""
    import ast

    source = (root / "src/overproof" / mutant.module).read_text()
    yield mutant.lines
    around = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (node.end_lineno or node.lineno)
    ]
    yield from sorted(around, key=lambda span: span[1] - span[0])
    yield 1, len(source.splitlines())


def work(root: Path, mutant: Mutant, tests: list[str]) -> Callable[[], int]:
    """Return what a child does: run the tests with the module changed."""

    def run() -> int:
        if not tests:
            return 0
        file = root / "src/overproof" / mutant.module
        name = "overproof." + mutant.module[:-3].replace("/", ".")
        sys.meta_path.insert(0, fork.Changed(name, file, changed(file.read_text(), mutant.number)))
        return fork.passes(tests)

    return run


def control(root: Path, folder: Path, drawn: list[Mutant], workers: int) -> dict[str, int]:
    """Run the tests of mutants on the source as it is; return how many runs there were and how many failed."""
    known = cover.read(sorted(folder.glob("cover-*.json")))
    chosen = [known.of(mutant.module, spans(root, mutant), BUDGET) for mutant in drawn]
    jobs = ((number, partial(fork.passes, tests), 600.0) for number, tests in enumerate(chosen) if tests)
    ends = [ended for _, ended in fork.pool(jobs, folder, workers)]
    return {"runs": len(ends), "failed": sum(ended != "0" for ended in ends)}


def attempt(root: Path, folder: Path, tried: list[Mutant], workers: int, log: Path) -> None:
    """Try mutants and add a line per mutant to a file."""
    known = cover.read(sorted(folder.glob("cover-*.json")))
    picked = {mutant.key: known.of(mutant.module, spans(root, mutant), BUDGET) for mutant in tried}

    def jobs() -> Iterator[tuple[Any, Callable[[], int], float]]:
        for mutant in tried:
            tests = picked[mutant.key]
            expected = sum(known.seconds[test] for test in tests)
            yield (mutant, time.monotonic()), work(root, mutant, tests), 20 + 6 * expected

    with log.open("a") as lines:
        for count, ((mutant, started), ended) in enumerate(fork.pool(jobs(), folder, workers), start=1):
            if ended == str(fork.BROKE):
                print(f"{mutant.module}:{mutant.line} could not be tried: {folder}/child-*.log", flush=True)
                continue
            lived = ended == "0"
            record = {
                "key": mutant.key,
                "lived": lived,
                "ended": ended,
                "tests": len(picked[mutant.key]),
                "seconds": round(time.monotonic() - started, 2),
                "at": f"{mutant.module}:{mutant.line}",
                "place": mutant.place,
                "operator": mutant.operator,
                "before": mutant.before,
                "after": mutant.after,
            }
            print(json.dumps(record), file=lines, flush=True)
            if lived:
                print(f"{count}/{len(tried)} lived  {record['at']} {mutant.before}  ->  {mutant.after}", flush=True)


def everything(root: Path, package: str) -> list[Mutant]:
    """Return all mutants of a package."""
    source = root / "src/overproof"
    return [m for module in modules(root, package) for m in mutants(module, (source / module).read_text())]


def report(root: Path, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the score of each package: what was killed of the tried, with Wilson's interval at 95 %; and survivors."""
    found = {}
    for package in cover.PACKAGES:
        tried = [record for record in records.values() if record["at"].startswith(f"{package}/")]
        killed = sum(not record["lived"] for record in tried)
        found[package] = {
            "mutants": len(everything(root, package)),
            "tried": len(tried),
            "killed": killed,
            "score": round(killed / max(len(tried), 1), 4),
            "interval": [round(end, 4) for end in Proportion(claim="killed", passed=killed, of=len(tried)).interval],
            "survivors": [
                f"{record['at']} {record['before']}  ->  {record['after']}" for record in tried if record["lived"]
            ],
        }
    return found


def main() -> None:
    """Do what the words say."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    words.add_argument("what", choices=("record", "control", "try", "report", "all"), nargs="?", default="all")
    words.add_argument("--root", type=Path, default=Path(), help="the checkout whose source and tests are tried")
    words.add_argument("--folder", type=Path, default=Path(".mutation"), help="where progress is kept")
    words.add_argument("--count", type=int, default=200, help="mutants per package")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--packages", nargs="*", default=cover.PACKAGES)
    words.add_argument("--again", action="store_true", help="try those that lived once more")
    asked = words.parse_args()
    root, folder = asked.root.resolve(), asked.folder.resolve()
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    os.environ["OMP_NUM_THREADS"] = "1"
    log = folder / "mutants.jsonl"
    if asked.what in ("record", "control", "try", "all"):
        sys.path.insert(0, str(root / "src"))
        os.chdir(root)
        fork.preload(root)
    if asked.what in ("record", "all"):
        missing = [name for name in asked.packages if not (folder / f"cover-{name}.json").is_file()]
        jobs = (
            (name, lambda name=name: cover.record(root, name, folder / f"cover-{name}.json") or 0, 3000.0)
            for name in missing
        )
        for name, ended in fork.pool(jobs, folder, asked.workers):
            print("recorded", name, ended, flush=True)
    if asked.what in ("control", "all"):
        drawn = [mutant for package in asked.packages for mutant in sample(root, package, CONTROLS)]
        print("on the source as it is:", control(root, folder, drawn, asked.workers), flush=True)
    records = {r["key"]: r for r in map(json.loads, log.read_text().splitlines())} if log.is_file() else {}
    if asked.what in ("try", "all"):
        if asked.again:
            lived = {key for key, record in records.items() if record["lived"]}
            drawn = [
                mutant for package in asked.packages for mutant in everything(root, package) if mutant.key in lived
            ]
        else:
            drawn = [mutant for package in asked.packages for mutant in sample(root, package, asked.count)]
            drawn = [mutant for mutant in drawn if mutant.key not in records]
        left = list({mutant.key: mutant for mutant in drawn}.values())
        print(len(left), "mutants to try", flush=True)
        attempt(root, folder, left, asked.workers, log)
        records = {r["key"]: r for r in map(json.loads, log.read_text().splitlines())}
    if asked.what in ("report", "all"):
        found = report(root, records)
        for package, figures in found.items():
            print(package, {name: value for name, value in figures.items() if name != "survivors"})
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
