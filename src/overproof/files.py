"""Writing files whole or not at all: a temporary name, synced to disk, renamed."""

import glob
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from overproof.errors import InputError


def write_atomically(path: Path, body: bytes) -> None:
    """Write ``body`` to ``path``; a crash or a full disk leaves the old file as it was.

    What a killed process left of an earlier attempt is removed. Raises ``InputError`` with the operating system's
    reason where the disk does not take the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
        _remove_abandoned(path)
    except (OSError, ValueError) as problem:  # a ValueError: no system has a path with a zero byte
        raise InputError(f"{path}: cannot be written ({_describe(problem)}); what was there is kept") from problem
    finally:
        with suppress(OSError, ValueError):  # it is gone after a success, and its folder may not exist after a failure
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it is there; raise ``InputError`` with the system's reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder}: cannot be made ({_describe(problem)})") from problem


def check_absent(folder: Path) -> None:
    """Raise ``InputError`` where something is in the place of a folder that is to be written."""
    if folder.exists():
        raise InputError(f"{folder}: it is already there; delete it or name another folder")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths into a new folder, all of them or none; raise ``InputError`` where it cannot be."""
    check_absent(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, body in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, body)
        temporary.replace(folder)
    except OSError as problem:
        raise InputError(f"{folder}: cannot be written ({_describe(problem)})") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of processes that are gone: a kill gave them no time to."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not _lives(int(number)):
            with suppress(OSError):
                left.unlink()


def _lives(process: int) -> bool:
    if os.name != "posix":  # elsewhere nobody can ask without stopping it
        return True
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


def _describe(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; only POSIX systems can sync a folder.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
