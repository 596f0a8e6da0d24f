"""Gather evaluated runs into one result file: ``python docs/collect.py docs/results/mnist.json runs/mnist-*``."""

import json
import sys
from pathlib import Path
from typing import Any

from overproof.run import Run
from overproof.verbs.compare import evaluated


def collect(folder: Path) -> dict[str, Any]:
    """Return what a result table needs of one run: who, how, what it withstood, and what it cost."""
    run = Run(folder)
    found, records = evaluated(folder), run.metrics()
    return {
        "run": found["run"],
        "method": found["method"],
        "seed": found["recipe_seed"],
        "parameters": found["parameters"],
        "architecture": found["architecture"],
        "data": found["data"],
        "threat": found["threat"],
        "clean": found["clean"],
        "attacks": {
            name: {key: one[key] for key in ("passed", "of", "share")} for name, one in found["attacks"].items()
        },
        "worst": found["worst"],
        "training_seconds": round(sum(record["seconds"] for record in records), 1),
        "training_processor_seconds": round(sum(record["processor_seconds"] for record in records), 1),
        "epochs": len(records),
        "student_passes": sum(record["passes"]["student"]["forward"] for record in records),
        "model_digest": found["model_digest"],
        "hardware": records[-1]["hardware"],
        "precision": records[-1]["precision"],
        "versions": found["versions"],
    }


def main() -> None:
    """Write the result file named first from the run folders named after it."""
    out, *folders = (Path(word) for word in sys.argv[1:])
    runs = [collect(folder) for folder in sorted(folders) if (folder / "evaluation.json").is_file()]
    out.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
