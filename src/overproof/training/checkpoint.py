"""The exact training state on disk: written whole or not at all, checked on reading, the one before kept."""

import io
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from overproof.archives import check_zip
from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.reading import read_bytes

State = dict[str, Any]
_KEPT = 2


def save_checkpoint(folder: Path, state: State, step: int) -> Path:
    """Write ``state`` as ``folder/<step>-<digest>.pt`` and drop all but the newest two; return the file.

    Of a step there is one file: a second takes the place of the first. The name carries the content's digest, so that a
    truncated or altered file is known without being trusted. Raises ``InputError`` where the disk does not take it;
    what cannot be dropped is left.
    """
    make_folder(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    for left_by_a_kill in folder.glob(".*.tmp"):
        with suppress(OSError):
            left_by_a_kill.unlink()
    file = folder / f"{step:09d}-{sha256(body).hexdigest()[:16]}.pt"
    write_atomically(file, body)
    others = [other for other in checkpoints(folder) if other != file]
    same = [other for other in others if other.name.startswith(f"{step:09d}-")]
    for old in {*same, *others[_KEPT - 1 :]}:
        with suppress(OSError):
            old.unlink()
    return file


def drop_checkpoints(folder: Path) -> int:
    """Remove the checkpoints of a folder, what a kill left of one, and the folder if it is then empty; return bytes.

    What cannot be removed is left.
    """
    removed = 0
    for file in (*checkpoints(folder), *folder.glob(".*.tmp")):
        with suppress(OSError):
            size = file.stat().st_size
            file.unlink()
            removed += size
    with suppress(OSError):  # it is not there, or something else lies in it
        folder.rmdir()
    return removed


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder, newest first."""
    return sorted(folder.glob("*-*.pt"), reverse=True)


def load_checkpoint(folder: Path) -> tuple[State, list[str]]:
    """Return the newest state that can be read, and a sentence for every newer file that was refused.

    Raises ``InputError`` where no file can be read. Tensors land on the CPU; nothing in a file is executed.
    """
    refused: list[str] = []
    for file in checkpoints(folder):
        try:
            return _read(file), refused
        except InputError as problem:
            refused.append(str(problem))
    raise InputError(". ".join([*refused, f"{folder}: there is no checkpoint to resume from"]))


def _read(file: Path) -> State:
    body = read_bytes(file)
    if not file.stem.endswith(f"-{sha256(body).hexdigest()[:16]}"):
        raise InputError(f"{file}: truncated or altered, its content does not match its name; refused")
    try:
        check_zip(io.BytesIO(body), file)
        state: State = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except Exception as problem:
        # The restricted unpickler raises a dozen unrelated types on bytes that were never a checkpoint.
        raise InputError(f"{file}: not a checkpoint of overproof; refused") from problem
    if not isinstance(state, dict) or "position" not in state:
        raise InputError(f"{file}: not a checkpoint of overproof; refused")
    return state
