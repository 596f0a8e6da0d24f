"""Looking through folders: every file once, links followed; what is left out is counted, by its reason."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from overproof.data.notes import counted, joined, was
from overproof.errors import InputError
from overproof.wording import one_line

_HIDDEN = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__"}
"""Names without a dot in front that systems and programs leave behind, in lower case."""
_SUFFIXES = 5  # that a sentence names


def is_hidden(name: str) -> bool:
    """Whether a name is not the user's: one that begins with a dot, or that systems leave behind (``Thumbs.db``)."""
    return name.startswith(".") or name.lower() in _HIDDEN


@dataclass
class Left:
    """What was left out below a folder; filled while one looks."""

    hidden_folders: int = 0
    hidden_files: int = 0
    circles: int = 0
    beside: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Files of no kind that is read, by their suffix."""

    def sentence(self) -> str:
        """Return what was left out, in one sentence without its end; nothing where nothing was."""
        often = sorted(self.others.items(), key=lambda one: (-one[1], one[0]))[:_SUFFIXES]
        kinds = ", ".join(f"{suffix or 'no suffix'}: {number}" for suffix, number in often)
        parts = [
            (self.hidden_folders, counted(self.hidden_folders, "hidden folder")),
            (self.hidden_files, counted(self.hidden_files, "hidden file")),
            (self.others.total(), f"{_no_images(self.others.total())} ({kinds})"),
            (self.beside, f"{counted(self.beside, 'image')} beside the folders of the classes"),
            (self.circles, f"{counted(self.circles, 'link')} to a folder above"),
        ]
        total = sum(number for number, _ in parts)
        return f"{joined(said for number, said in parts if number)} {was(total)}" if total else ""


def subfolders(folder: Path, left: Left) -> tuple[str, ...]:
    """Return the names of the folders in a folder, in order, without hidden ones.

    Raises ``InputError`` for a name that is not UTF-8, and for a link to what is not there: it may be one of them.
    """
    folders = []
    for entry in folder.iterdir():
        if is_hidden(entry.name):
            left.hidden_folders += entry.is_dir()
            left.hidden_files += not entry.is_dir()
        elif entry.is_dir():
            folders.append(Path(as_text(entry)).name)
        elif entry.is_symlink() and not entry.exists():
            raise InputError(f"{one_line(str(entry), 300)}: a link to what is not there; mend or remove it")
    return tuple(sorted(folders))


def files_below(folder: Path, suffixes: Collection[str], left: Left) -> list[Path]:
    """Return the files below a folder whose suffix, in lower case, is one of these, in order; links are followed."""
    return sorted(_walk(folder, suffixes, left, above=()))


def as_text(path: Path) -> str:
    """Return a path as text; raise ``InputError`` for one that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as problem:  # bytes that are no text, which Python keeps as lone surrogates
        raise InputError(f"{one_line(str(path), 300)}: this name is not UTF-8 text; rename the file") from problem
    return str(path)


def _walk(folder: Path, suffixes: Collection[str], left: Left, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        left.circles += 1
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            deeper, place = _is_folder(entry), folder / entry.name
            if is_hidden(entry.name):
                left.hidden_folders += deeper
                left.hidden_files += not deeper
            elif deeper:
                yield from _walk(place, suffixes, left, (*above, here))
            elif (suffix := place.suffix.lower()) in suffixes:
                yield place
            else:
                left.others[one_line(suffix, 20)] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link to itself
        return False


def _no_images(number: int) -> str:
    return f"{number:,} file that is no image" if number == 1 else f"{number:,} files that are no images"
