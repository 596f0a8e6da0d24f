"""``compare``: several evaluated runs in one table per footing, and one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.files import write_atomically
from overproof.report.page import page
from overproof.report.table import Table, tables
from overproof.run import Run
from overproof.verbs.evaluate import SCHEMA


def compare(folders: Sequence[Path | str], *, out: Path | None = None) -> list[Table]:
    """Return a table per data set and threat model; with ``out`` also write the page. Raises ``InputError``."""
    found = [evaluated(Path(folder)) for folder in folders]
    if not found:
        raise InputError("name at least one run to compare")
    if out is not None:
        write_atomically(out, page(found, title="Comparison", lead=f"{len(found)} runs.").encode())
    return tables(found)


def evaluated(folder: Path) -> dict[str, Any]:
    """Return a run's evaluation; raise ``InputError`` where there is none, or of another network."""
    run = Run(folder)
    found = run.evaluation()
    if found is None:
        run.recipe()  # no run folder at all is another sentence
        raise InputError(f"{folder}: not evaluated yet; run: overproof evaluate {folder}")
    if found.get("schema") != SCHEMA:
        raise InputError(f"{folder}: its evaluation.json is of another version of overproof; evaluate it again")
    # What was found about a foreign network lies in a folder without the network.
    if (folder / "recipe.yaml").is_file() and found["model_digest"] != run.description()["digest"]:
        raise InputError(f"{folder}: its network has changed since it was evaluated; run: overproof evaluate {folder}")
    return found
