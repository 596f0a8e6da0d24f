"""A run is a folder: what its files are called, and reading them; complete in itself, readable without overproof."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.files import write_atomically
from overproof.models.classifier import Classifier
from overproof.models.weights import load_description, load_model
from overproof.recipe import Recipe, read


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the exact training states."""
        return self.folder / "checkpoint"

    def recipe(self) -> Recipe:
        """Return the recipe as run; raise ``InputError`` where this is no run folder."""
        file = self.folder / "recipe.yaml"
        if not file.is_file():
            raise InputError(f"{self.folder}: not a run folder (it has no recipe.yaml)")
        return read(file)

    def model(self, name: str = "model") -> tuple[Classifier, dict[str, Any]]:
        """Return the network (``model``: the selected one, ``last``: the final one) and its description."""
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such run folder")
        return load_model(self.folder, name)

    def description(self, name: str = "model") -> dict[str, Any]:
        """Return what the run says of its network, without reading the weights; raise ``InputError`` without one."""
        return load_description(self.folder, name)

    def metrics(self) -> list[dict[str, Any]]:
        """Return one record per finished epoch, in order; a half-written last line is left out."""
        return list(self._lines("metrics.jsonl"))

    def write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Replace the metrics by these records."""
        self.write_lines("metrics.jsonl", records)

    def evaluation(self) -> dict[str, Any] | None:
        """Return what ``evaluate`` found, or None where it has not run."""
        return self._object("evaluation.json", "an evaluation")

    def certificate(self) -> dict[str, Any] | None:
        """Return what ``certify`` found, or None where it has not run."""
        return self._object("certificate.json", "a certificate")

    def examples(self) -> list[dict[str, Any]]:
        """Return what ``evaluate`` wrote of each example, in order; nothing where it has not run."""
        return list(self._lines("examples.jsonl"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the run, whole or not at all."""
        write_atomically(self.folder / name, (json.dumps(content, indent=1) + "\n").encode())

    def write_lines(self, name: str, records: list[dict[str, Any]]) -> None:
        """Write one JSON-lines file of the run, whole or not at all."""
        write_atomically(self.folder / name, "".join(json.dumps(record) + "\n" for record in records).encode())

    def _object(self, name: str, what: str) -> dict[str, Any] | None:
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(file.read_text())
        except ValueError as problem:
            raise InputError(f"{file}: not readable as JSON ({problem})") from problem
        if not isinstance(found, dict):
            raise InputError(f"{file}: not {what} of overproof")
        return found

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        file = self.folder / name
        for line in file.read_text().splitlines() if file.is_file() else ():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def load(folder: Path | str) -> Classifier:
    """Return the network of a run folder, in eval mode on the CPU; raise ``InputError`` where there is none."""
    model, _ = Run(Path(folder)).model()
    return model
