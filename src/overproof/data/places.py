"""Where data lie: a path as it stands, or below the folder that OVERPROOF_DATA names."""

import os
from pathlib import Path

from overproof.errors import InputError
from overproof.reading import exists, parsing


class MissingPartError(InputError):
    """A data set has no such part (no test images, for example); what it has can be used."""


def data_root() -> Path | None:
    """Return the folder that ``OVERPROOF_DATA`` names, with ``~`` as the home folder; None where it is empty.

    Raises ``InputError`` for a home folder that is not known.
    """
    said = os.environ.get("OVERPROOF_DATA", "").strip()
    if not said:
        return None
    with parsing(f"OVERPROOF_DATA ({said})", "a folder"):
        return Path(said).expanduser()


def find(path: str) -> Path:
    """Return where a path is: here, or below ``OVERPROOF_DATA``; the path itself where it is in neither place.

    Raises ``InputError`` for what no system takes as a path.
    """
    if not path.strip():
        raise InputError("the path of a data set is empty; write . for the current folder")
    with parsing(path, "the path of a data set"):
        here, root = Path(path).expanduser(), data_root()
        here.exists()  # raises for what no system takes as a path
        return root / here if root and not exists(here) and exists(root / here) else here


def find_folder(path: str) -> Path:
    """Return an existing folder, as ``find`` does; raise ``InputError`` where there is none."""
    folder = find(path)
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{path}: is a file; name the folder that holds the data")
        raise InputError(f"{path}: no such data folder{where_looked()}")
    return folder


def where_looked() -> str:
    """Return the end of a sentence about data that were not found: where they were looked for."""
    root = data_root()
    return f", neither here nor under OVERPROOF_DATA ({root})" if root else "; OVERPROOF_DATA may point at its parent"
