"""The one word for a data set that every command takes: a path, a hub id or ``digits``."""

import re
from pathlib import Path

from overproof.data.folders import Left, files_below
from overproof.data.places import find, where_looked
from overproof.errors import InputError
from overproof.reading import exists, is_folder, parsing
from overproof.wording import one_line

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SUFFIX = re.compile(r"\.\w*[A-Za-z_]\w*")  # one of numbers alone is a version: org/digits-v1.0
_FORMS = "an .npz file, a folder of classes or of parquet files, a hub id (org/name), digits, or YAML as in a recipe"


def described(word: str) -> dict[str, str]:
    """Return which source a word means, as a recipe says it: ``{kind: npz, path: faces.npz}``.

    What is here, or below ``OVERPROOF_DATA``, is read from there; what looks like a path is never asked of the hub.
    Raises ``InputError`` for what is neither here nor a hub id.
    """
    if word == "digits":
        return {"kind": "digits"}
    place, shown = find(word), one_line(word, 300)
    if place.suffix.lower() == ".npz" and not is_folder(place):
        return {"kind": "npz", "path": word}
    if is_folder(place):
        with parsing(place, "a folder of data"):
            tables = files_below(place, {".parquet"}, Left())
        return {"kind": "parquet" if tables else "folder", "path": word}
    if exists(place):
        advice = "name the folder it is in" if place.suffix.lower() == ".parquet" else f"give {_FORMS}"
        raise InputError(f"{shown}: a file that is no .npz archive; {advice}")
    if looks_like_path(word):
        raise InputError(f"{shown}: there is no such file or folder{where_looked()}")
    if not _ID.fullmatch(word):
        raise InputError(f"{shown}: nothing of this name is here{where_looked()}; give {_FORMS}")
    return {"kind": "hub", "id": word}


def looks_like_path(word: str) -> bool:
    """Whether a word is meant as a path: it begins with ``.``, ``/`` or ``~``, has a suffix, or several slashes."""
    return (
        word.startswith((".", "/", "~"))
        or "\\" in word
        or word.count("/") > 1
        or word.endswith("/")
        or bool(_SUFFIX.fullmatch(Path(word).suffix))
    )
