"""Reading files that somebody else may have written: bounded, never blocking, one sentence for whatever is wrong."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO

from overproof.errors import InputError

_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,3}|/\d{1,30})?", re.IGNORECASE | re.ASCII)
_REASON = 200  # characters of what a foreign reader says


def is_file(place: Path) -> bool:
    """Whether a file is here; where the system cannot even look (a name too long, a folder that is closed): no."""
    try:
        return place.is_file()
    except OSError:
        return False


def is_folder(place: Path) -> bool:
    """Whether a folder is here; where the system cannot even look: no."""
    try:
        return place.is_dir()
    except OSError:
        return False


def exists(place: Path) -> bool:
    """Whether anything is here; where the system cannot even look: no."""
    try:
        return place.exists()
    except OSError:
        return False


def read_bytes(file: Path, *, limit: int | None = None) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes (default: half of this process's memory).

    Raises ``InputError`` for what is no regular file (a pipe or a device would block, or never end), for a larger one
    and for whatever the system refuses.
    """
    most = _half_of_memory() if limit is None else limit
    with parsing(file, "a file"), opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        body = stream.read(most + 1) if size <= most else None
    if body is None or len(body) > most:
        size = max(size, most + 1)
        raise InputError(f"{file}: {size:,} bytes are more than the {most:,} that are read of such a file")
    return body


def opened(file: Path) -> BinaryIO:
    """Open a regular file for reading; raise ``InputError`` for a pipe or a device, whatever the system raises else."""
    # Opening a pipe waits for a writer unless it is told not to.
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    stream = os.fdopen(handle, "rb")
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise InputError(f"{file}: {_kind(mode)}, not a file")
    return stream


def _half_of_memory() -> int:
    from overproof.environment import memory  # which asks torch; names and recipes are read without

    return memory() // 2


def read_text(file: Path, *, limit: int | None = None) -> str:
    """Return the content of a UTF-8 text file; raise ``InputError`` as ``read_bytes`` does, and for other bytes."""
    try:
        return read_bytes(file, limit=limit).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InputError(f"{file}: not UTF-8 text") from problem


def read_json(file: Path, *, limit: int | None = None) -> Any:
    """Return what a JSON file says; raise ``InputError`` as ``read_text`` does, and for what is not JSON."""
    text = read_text(file, limit=limit)
    with parsing(file, "JSON"):
        return json.loads(text)


def read_object(file: Path, *, limit: int | None = None) -> dict[str, Any]:
    """Return the object of a JSON file; raise ``InputError`` as ``read_json`` does, and for any other value."""
    tree = read_json(file, limit=limit)
    if not isinstance(tree, dict):
        raise InputError(f"{file}: not a JSON object")
    return tree


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file up to the first line that is none: a crash may leave half a line.

    Raises ``InputError`` as ``read_text`` does, and for a line that cannot be parsed for its depth or its numbers.
    """
    with parsing(file, "JSON lines"):
        for line in read_text(file).split("\n"):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                return
            if not isinstance(record, dict):
                raise InputError(f"{file}: a line of it is not a JSON object")
            yield record


def read_fraction(text: str) -> Fraction:
    """Return the number that ``8/255``, ``0.031`` or ``1e-2`` means; raise ``ValueError`` for other and longer text.

    An exponent of eight digits would be an integer of a hundred million: it is refused before it is computed.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"not a number: {text[:40]!r}")
    return Fraction(text)


@contextmanager
def parsing(place: Path | str, what: str) -> Iterator[None]:
    """Turn whatever reading or understanding foreign content raises into one ``InputError`` that names the place.

    Foreign bytes make parsers raise dozens of unrelated types: broken syntax, nesting too deep, numbers too long, keys
    that are missing, memory that runs out. An ``InputError`` passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as problem:
        raise InputError(f"{place}: reading it takes more memory than this process may use") from problem
    except RecursionError as problem:
        raise InputError(f"{place}: not readable as {what} (nested too deeply)") from problem
    except FileNotFoundError as problem:
        raise InputError(f"{place}: there is no such file") from problem
    except OSError as problem:
        raise InputError(f"{place}: cannot be read ({_of_system(problem)})") from problem
    except Exception as problem:
        raise InputError(f"{place}: not readable as {what} ({reason(problem)})") from problem


def reason(problem: BaseException) -> str:
    """Return what an exception says, in one short line; its type's name where that alone explains the message."""
    said = " ".join(str(problem).split())
    if isinstance(problem, KeyError):
        said = f"{said} is missing"
    elif not isinstance(problem, ValueError) or not said:
        said = f"{type(problem).__name__}: {said}".removesuffix(": ")
    return shorten(said, _REASON, placeholder=" ...") if " " in said[:_REASON] else said[:_REASON]


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, where: Path | str) -> Any:
    """Return the value of a key that must be there and of a type; raise ``InputError`` that names the place."""
    value = record.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        said = "is missing" if name not in record else f"is of type {type(value).__name__}"
        raise InputError(f"{where}: {name!r} {said}")
    return value


def _of_system(problem: OSError) -> str:
    return (problem.strerror or str(problem)) if problem.errno != errno.EISDIR else "it is a folder"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")
