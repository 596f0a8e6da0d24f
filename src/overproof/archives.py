"""How much a packed file becomes: known from its directory, before a byte of it is unpacked."""

import gzip
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

from overproof.environment import memory
from overproof.errors import InputError
from overproof.reading import parsing

_ALWAYS = 2**30  # bytes that every file may unpack to
_TIMES = 64  # as much of its own size; images and weights pack to a half, black images to a hundredth
_END = struct.Struct("<4s4H2LH")  # the zip format's end of central directory (APPNOTE 4.3.16), without a comment
_LOCATOR = struct.Struct("<4sLQL")  # where its 64-bit form is (4.3.15)
_END_64 = 56  # bytes of the 64-bit form (4.3.14)


def most_unpacked(size: int) -> int:
    """Return how many bytes a file may unpack to: 64 times its size or 1 GiB, and at most half of the memory."""
    return min(max(_ALWAYS, _TIMES * size), memory() // 2)


def check_unpacked(size: int, unpacked: int, where: Path | str) -> None:
    """Raise ``InputError`` where a file of ``size`` bytes would unpack to too many."""
    if unpacked > (most := most_unpacked(size)):
        raise InputError(
            f"{where}: its {size:,} bytes would unpack to {unpacked:,}, more than the {most:,} that such a file may "
            "take"
        )


def gunzip(body: bytes, where: Path | str, *, most: int | None = None) -> bytes:
    """Return what a gzip file holds; bytes that are none are returned as they are.

    Raises ``InputError`` for a damaged or truncated one, and where it holds more than ``most`` bytes (default: what a
    file of its size may unpack to).
    """
    if not body.startswith(b"\x1f\x8b"):
        return body
    most = most_unpacked(len(body)) if most is None else most
    with parsing(where, "a gzip file, or cut off"), gzip.open(BytesIO(body)) as stream:
        unpacked = stream.read(most + 1)
    if len(unpacked) > most:
        raise InputError(f"{where}: its {len(body):,} bytes unpack to more than {most:,}")
    return unpacked


def check_zip(stream: BinaryIO, where: Path | str) -> dict[str, int]:
    """Return the unpacked size of every part of a zip archive, by its name; nothing is unpacked.

    Raises ``InputError`` for an archive that is damaged or would unpack to too much. One with bytes after its end is
    called damaged: readers disagree about what it holds, so that what was checked might not be what is read.
    """
    size = stream.seek(0, os.SEEK_END)
    if not _ends_plainly(stream, size):
        raise InputError(f"{where}: damaged or cut off; fetch it again")
    with parsing(where, "a zip archive, or cut off"), ZipFile(stream) as archive:
        parts = archive.infolist()
    check_unpacked(size, sum(part.file_size for part in parts), where)
    return {part.filename: part.file_size for part in parts}


def _ends_plainly(stream: BinaryIO, size: int) -> bool:
    """Whether every reader finds the same directory: no comment, and its 64-bit form right before its end."""
    start = max(0, size - _END.size - _LOCATOR.size)
    stream.seek(start)
    tail = stream.read()
    if tail[-_END.size : -_END.size + 4] != b"PK\x05\x06" or len(tail) < _END.size:
        return False
    if len(tail) < _LOCATOR.size + _END.size:
        return True
    mark, _, place, _ = _LOCATOR.unpack_from(tail)
    return bool(mark != b"PK\x06\x07" or place == start - _END_64)
