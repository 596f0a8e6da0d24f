"""Gather evaluated runs into one result file: ``python docs/collect.py docs/results/mnist.json runs/mnist-*``."""

import json
import sys
from pathlib import Path
from typing import Any

from overproof.run import Run
from overproof.verbs.findings import evaluated


def collect(folder: Path) -> dict[str, Any]:
    """Return what a result table needs of one run: who, how, what it withstood, and what it cost."""
    run = Run(folder)
    found, records = evaluated(run), run.metrics()
    return {
        "run": found["run"],
        "teachers": run.description().get("teachers")
        or {role: Run(Path(path)).description()["digest"] for role, path in run.recipe().teachers.items()},
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
        **({"certificate": proved} if (proved := certificate(run)) else {}),
        "training_seconds": round(sum(record["seconds"] for record in records), 1),
        "training_processor_seconds": round(sum(record["processor_seconds"] for record in records), 1),
        "epochs": len(records),
        "student_passes": sum(record["passes"]["student"]["forward"] for record in records),
        "model_digest": found["model_digest"],
        "hardware": records[-1]["hardware"],
        "precision": records[-1]["precision"],
        "versions": found["versions"],
    }


def certificate(run: Run) -> dict[str, Any] | None:
    """Return what was proved of a run, alone and beside its teacher; None where nothing was tried."""
    file = run.folder / "certificate.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text())
    if found["model_digest"] != run.description()["digest"]:
        raise SystemExit(f"{run.folder}: its network has changed since it was certified")
    beside = found["teacher"] and {
        "gap": {side: found["teacher"]["gap"][side] for side in ("attacked", "separate", "proven")},
        "agreement": {side: found["teacher"]["agreement"][side]["share"] for side in ("proven", "standing")},
        "examples": found["teacher"]["examples"],
    }
    return {
        "bound": found["bound"],
        "seconds_each": found["budget"],
        "examples": found["data"]["examples"],
        "verified": {key: found["verified"][key] for key in ("passed", "of", "share")},
        "counts": found["counts"],
        "seconds": round(sum(stage["seconds"] for stage in found["stages"].values()), 1),
        "teacher": beside,
    }


def main() -> None:
    """Write the runs into the result file named first; a run that is there already is replaced.

    Runs of one name with different teachers are different runs, and so are two teachers with different weights.
    """
    out, *folders = (Path(word) for word in sys.argv[1:])
    before = json.loads(out.read_text()) if out.is_file() else []
    after = [collect(folder) for folder in folders if (folder / "evaluation.json").is_file()]
    runs = {identity(run): run for run in [*before, *after]}
    out.write_text(json.dumps([runs[key] for key in sorted(runs)], indent=1) + "\n")


def identity(run: dict[str, Any]) -> tuple[str, ...]:
    """Return what makes two collected runs the same."""
    own = [run["model_digest"]] if run["run"].endswith("teacher") else []
    return (run["run"], *own, *run["teachers"].values())


if __name__ == "__main__":
    main()
