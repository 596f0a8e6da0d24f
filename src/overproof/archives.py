"""How much a packed file becomes: known from its directory, before a byte of it is unpacked."""

import io
import struct
from pathlib import Path
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


def check_zip(body: bytes, where: Path | str) -> dict[str, int]:
    """Return the unpacked size of every part of a zip archive, by its name; nothing is unpacked.

    Raises ``InputError`` for an archive that is damaged or would unpack to too much. One with bytes after its end is
    called damaged: readers disagree about what it holds, so that what was checked might not be what is read.
    """
    if not _ends_plainly(body):
        raise InputError(f"{where}: damaged or cut off; fetch it again")
    with parsing(where, "a zip archive, or cut off"), ZipFile(io.BytesIO(body)) as archive:
        parts = archive.infolist()
    check_unpacked(len(body), sum(part.file_size for part in parts), where)
    return {part.filename: part.file_size for part in parts}


def _ends_plainly(body: bytes) -> bool:
    """Whether every reader finds the same directory: no comment, and its 64-bit form right before its end."""
    start = len(body) - _END.size
    if start < 0 or body[start : start + 4] != b"PK\x05\x06":
        return False
    if start < _LOCATOR.size:
        return True
    mark, _, place, _ = _LOCATOR.unpack_from(body, start - _LOCATOR.size)
    return bool(mark != b"PK\x06\x07" or place == start - _LOCATOR.size - _END_64)
