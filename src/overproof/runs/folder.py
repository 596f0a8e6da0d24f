"""A run is a folder: what its files are called, and reading them; complete in itself, readable without overproof."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.files import write_atomically
from overproof.formats.hub import fetch, repository_id
from overproof.models.classifier import Classifier
from overproof.models.weights import load_description, load_model
from overproof.reading import is_file, is_folder, read_json, read_lines
from overproof.recipe import Recipe, read_values
from overproof.trust import Code
from overproof.wording import one_line


@dataclass(frozen=True)
class Run:
    """One run folder; ``own`` is False for what came from the Hub, whose words run no code."""

    folder: Path
    own: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))  # a string will do

    @property
    def checkpoints(self) -> Path:
        """The folder of the exact training states."""
        return self.folder / "checkpoint"

    def recipe(self, *, imports: bool = False, trust_code: bool = False) -> Recipe:
        """Return the recipe as run; raise ``InputError`` where this is no run folder.

        It is read for its values: what it names of other packages is not imported. With ``imports`` its data and
        attacks are, for those who use them, by the rules of ``code``.
        """
        file = self.folder / "recipe.yaml"
        if not is_file(file):
            raise InputError(f"{one_line(str(self.folder), 300)}: not a run folder (it has no recipe.yaml)")
        return read_values(file, self.code(file, imports=imports, trust_code=trust_code))

    def code(self, where: Path | str, *, imports: bool = True, trust_code: bool = False) -> Code:
        """Return which code the words of the run's files may run: data and attacks that are used, never a method.

        Those of the user's own run are looked for where they were when it was trained, in the current folder and among
        entry points. Of what came from the Hub, nothing is run without ``trust_code``.
        """
        said = read_json(file) if self.own and is_file(file := self.folder / "model.json") else {}
        folders = said.get("code_folders", []) if isinstance(said, dict) else []
        named = [one for one in folders if isinstance(one, str)] if isinstance(folders, list) else []
        return Code(
            where=str(where),
            folders=tuple((self.folder / one).resolve() for one in named),
            trust_code=trust_code,
            load=False,
            imports=imports and (self.own or trust_code),
        )

    def model(self, name: str = "model", *, trust_code: bool = False) -> tuple[Classifier, dict[str, Any]]:
        """Return the network (``model``: the selected one, ``last``: the final one) and its description.

        ``trust_code`` runs code that makes the network wherever it lies (see ``models.weights.load_model``).
        """
        if not is_folder(self.folder):
            raise InputError(f"{one_line(str(self.folder), 300)}: no such run folder")
        return load_model(self.folder, name, own=self.own, trust_code=trust_code)

    def description(self, name: str = "model") -> dict[str, Any]:
        """Return what the run says of its network, without reading the weights; raise ``InputError`` without one."""
        return load_description(self.folder, name)

    def imported(self) -> dict[str, Any] | None:
        """Return where an imported network is from, or None for a run that has a recipe (or is no run)."""
        named = ("model.json", "config.json")
        if is_file(self.folder / "recipe.yaml") or not any(is_file(self.folder / name) for name in named):
            return None
        imported: dict[str, Any] | None = self.description().get("imported")
        if imported is not None and not isinstance(imported, dict):
            raise InputError(f"{self.folder}: what it says of its origin is no mapping")
        return imported

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
        if not is_file(file):
            return None
        tree = read_json(file)
        if not isinstance(tree, dict):
            raise InputError(f"{file}: not {what} of overproof")
        return tree

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        file = self.folder / name
        return read_lines(file) if is_file(file) else iter(())


def find_run(word: Path | str) -> Run:
    """Return the run in a folder, or in a repository of the Hub (``org/name``, ``hub:org/name@revision``).

    Raises ``InputError`` where the Hub does not give it; a folder is not looked into.
    """
    repository = repository_id(word) if isinstance(word, str) else None
    return Run(fetch(*repository), own=False) if repository else Run(Path(word))


def load(word: Path | str, *, trust_code: bool = False) -> Classifier:
    """Return the network of a run folder or of a Hub repository, in eval mode on the CPU.

    A repository is written ``org/name``, ``org/name@revision``, or with ``hub:`` in front where a folder of that name
    is here as well. ``trust_code`` runs code that makes the network wherever it lies. Raises ``InputError`` where there
    is none, or its weights are not those it describes.
    """
    model, _ = find_run(word).model(trust_code=trust_code)
    return model
