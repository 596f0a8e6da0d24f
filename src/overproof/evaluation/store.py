"""An unfinished evaluation on disk: the state of its blocks, so that it can go on after a crash."""

import json
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

from safetensors.torch import load, save

from overproof.errors import InputError
from overproof.evaluation.state import ExampleState
from overproof.files import make_folder, write_atomically
from overproof.reading import read_bytes, read_object

_PATIENCE = 10.0  # seconds of work that a crash may cost; writing more often would cost more than it saves


class Store:
    """A folder with ``setting.json`` (everything the state depends on) and one safetensors file per block.

    A block carries the digest of its state: one that a crash, a disk or a hand has altered is done again.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        self.folder = folder
        self._setting = json.loads(json.dumps(setting))
        self._written: dict[int, float] = {}

    def open(self, *, resume: bool, overwrite: bool = False) -> None:
        """Make the folder, or continue in it; raise ``InputError`` where other unfinished work lies in it.

        With ``overwrite`` what lies there is deleted first.
        """
        file = self.folder / "setting.json"
        if overwrite:
            self.remove()
        if not file.is_file():
            make_folder(self.folder)
            write_atomically(file, json.dumps(self._setting, indent=1).encode())
            return
        if not resume:
            raise InputError(
                f"{self.folder}: this was begun and is unfinished; --resume continues it, --overwrite begins again"
            )
        try:
            before = read_object(file)
        except InputError as problem:
            raise InputError(f"{problem}; --overwrite begins again") from problem
        for name in self._setting:
            if before.get(name) != self._setting[name]:
                raise InputError(
                    f"{self.folder}: the unfinished work has another {name} ({before.get(name)}, now "
                    f"{self._setting[name]}); finish it as it was, or begin again with --overwrite"
                )

    def load(self, number: int) -> ExampleState | None:
        """Return what was written of a block; None where nothing was, only half of it, or what was altered since."""
        file = self._file(number)
        if not file.is_file():
            return None
        try:
            body = read_bytes(file)
            state = load(body)
            # Eight bytes say how long the header is.
            said = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]["sha256"]
        except Exception:  # of bytes that are no whole block: whatever is wrong with them, it is done again
            return None
        return state if said == _digest(state) else None

    def save(self, number: int, state: ExampleState, *, whole: bool) -> None:
        """Write a block: always when it is ``whole``, else when its last writing is some seconds ago."""
        now = monotonic()
        if whole or now - self._written.setdefault(number, now) >= _PATIENCE:
            self._written[number] = now
            whole_rows = {name: value.cpu().contiguous() for name, value in state.items()}
            write_atomically(self._file(number), save(whole_rows, metadata={"sha256": _digest(whole_rows)}))

    def remove(self) -> None:
        """Delete the folder: the evaluation is finished and written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def _digest(state: ExampleState) -> str:
    """Return the SHA-256 over the state's names, types, shapes and numbers."""
    body = sha256()
    for name, value in sorted(state.items()):
        body.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        body.update(value.numpy().data)
    return body.hexdigest()
