"""``python -m benchmarks.verifier [FOLDER] [--seconds 60]``: VNN-COMP's queries, decided beside its tools.

``FOLDER`` (default ``../shared/reference/wild/queries``) holds ``instances.csv``, the queries, their networks in
``../onnx``, and ``results-2021.csv``: the answers of eight verifiers in VNN-COMP 2021 with their seconds, on its own
machines. Decides one instance after the other with all of torch's threads, as ``overproof certify --instances`` does;
what was decided before is kept in ``--out``. Writes ``benchmarks/results/verifier.json``. Needs the extra ``export``.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from overproof.commands.instances import iter_decide
from overproof.environment import hardware, versions

FILE = Path(__file__).parent / "results" / "verifier.json"
TOOLS = ("alpha-beta-CROWN", "VeriNet", "oval", "ERAN", "Marabou", "nnenum", "venus2", "Debona")
DECIDED = ("sat", "unsat")


def summary(
    instances: list[dict[str, str]], ours: list[dict[str, str]], theirs: list[dict[str, str]]
) -> dict[str, Any]:
    """Return for each benchmark what we and each tool decided, the median seconds of that, and who disagrees."""
    public, own = ({(row["network"], row["query"]): row for row in answers} for answers in (theirs, ours))
    found: dict[str, Any] = {}
    for instance in instances:
        row = own[instance["network"], instance["query"]]
        part = found.setdefault(instance["benchmark"], {"queries": 0, "by some tool": 0, "against": 0, "tools": {}})
        answers = public[instance["network"], instance["query"]]
        said = {tool: (answers[tool], float(answers[f"{tool}_s"])) for tool in TOOLS}
        part["queries"] += 1
        part["by some tool"] += any(answer in DECIDED for answer, _ in said.values())
        part["against"] += row["result"] in DECIDED and any(
            answer in DECIDED and answer != row["result"] for answer, _ in said.values()
        )
        for tool, (answer, seconds) in {"overproof": (row["result"], float(row["seconds"])), **said}.items():
            one = part["tools"].setdefault(tool, {"sat": 0, "unsat": 0, "seconds": []})
            if answer in DECIDED:
                one[answer] += 1
                one["seconds"].append(seconds)
    for part in found.values():
        for one in part["tools"].values():
            one["seconds"] = median(one["seconds"]) if one["seconds"] else None
    return found


def rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header."""
    with file.open() as lines:
        return list(csv.DictReader(lines))


def main() -> None:
    """Decide what is not decided yet, summarise, write and print."""
    words = argparse.ArgumentParser(description="VNN-COMP's queries decided")
    words.add_argument("folder", nargs="?", type=Path, default=Path("../shared/reference/wild/queries"))
    words.add_argument("--seconds", type=float, default=60.0)
    words.add_argument("--out", type=Path, default=Path("verifier"))
    given = words.parse_args()
    instances = given.folder / "instances.csv"
    for one in iter_decide(instances, given.out, seconds=given.seconds, resume=(given.out / "results.csv").is_file()):
        print(one, flush=True)
    asked = json.loads((given.out / "results.json").read_text())
    found = {
        "seconds": given.seconds,
        "precision": asked["precision"],
        "hardware": f"{hardware(torch.device('cpu'))}",
        "versions": versions(),
        "benchmarks": summary(
            rows(instances), rows(given.out / "results.csv"), rows(given.folder / "results-2021.csv")
        ),
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    for name, part in found["benchmarks"].items():
        ours = part["tools"]["overproof"]
        print(f"{name}: {ours['sat']} sat, {ours['unsat']} unsat of {part['queries']}, {part['against']} against")


if __name__ == "__main__":
    main()
