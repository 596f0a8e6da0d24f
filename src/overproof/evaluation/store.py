"""An unfinished evaluation on disk: the marks of its blocks, so that it can go on after a crash."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from overproof.errors import InputError
from overproof.evaluation.marks import Marks
from overproof.files import write_atomically

_PATIENCE = 10.0  # seconds of work that a crash may cost; writing more often would cost more than it saves


class Store:
    """A folder with ``setting.json`` (everything the marks depend on) and one safetensors file per block."""

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        self.folder = folder
        self._setting = json.loads(json.dumps(setting))
        self._written: dict[int, float] = {}

    def open(self, *, resume: bool) -> None:
        """Make the folder, or continue in it; raise ``InputError`` where another evaluation lies unfinished in it."""
        file = self.folder / "setting.json"
        if not file.is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise InputError(f"{self.folder}: cannot be made ({problem.strerror or problem})") from problem
            write_atomically(file, json.dumps(self._setting, indent=1).encode())
            return
        if not resume:
            raise InputError(f"{self.folder}: an evaluation lies unfinished here; continue with --resume or delete it")
        try:
            before = dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as problem:
            raise InputError(f"{file}: damaged ({problem}); delete {self.folder} to start anew") from problem
        for name in self._setting:
            if before.get(name) != self._setting[name]:
                raise InputError(
                    f"{self.folder}: the unfinished evaluation has another {name} "
                    f"({before.get(name)}, now {self._setting[name]}); finish it as it was or delete it"
                )

    def load(self, number: int) -> Marks | None:
        """Return what was written of a block; None where nothing was, or only half of it."""
        file = self._file(number)
        if not file.is_file():
            return None
        try:
            return load(file.read_bytes())
        except SafetensorError:
            return None

    def save(self, number: int, marks: Marks, *, whole: bool) -> None:
        """Write a block: always when it is ``whole``, else when its last writing is some seconds ago."""
        now = monotonic()
        if whole or now - self._written.setdefault(number, now) >= _PATIENCE:
            self._written[number] = now
            write_atomically(self._file(number), save({name: value.contiguous() for name, value in marks.items()}))

    def remove(self) -> None:
        """Delete the folder: the evaluation is finished and written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
