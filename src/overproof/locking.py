"""One process at a time for one kind of work in a folder; the system lets go of it when the process ends, however."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from overproof.errors import InputError
from overproof.files import make_folder
from overproof.reading import reason

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for ``work`` (``train``, ``evaluate``, ``certify``); it is made where it is not there.

    The lock is the system's (``flock``) on ``.WORK.lock`` in the folder. The file says which process holds it, and is
    gone afterwards; one that a killed process left behind holds nothing. A folder that was made for this and is still
    empty goes too. On a file system without locks nothing is held. Raises ``InputError`` where another process holds
    it, and where the folder cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    handle, file = None, folder / lock_name(work)
    try:
        make_folder(folder)
        try:
            handle = _acquired(file, folder, work)
        except OSError as problem:
            raise InputError(f"{folder}: cannot be written ({problem.strerror or problem})") from problem
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                file.unlink()  # before it is let go: afterwards it may be another's
            os.close(handle)
        for one in made:
            with suppress(OSError):  # of one that is not empty
                one.rmdir()


def lock_name(work: str) -> str:
    """Return what the lock of a kind of work is called in a folder."""
    return f".{work}.lock"


def _acquired(file: Path, folder: Path, work: str) -> int:
    """Return the open and locked file."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            lock(handle)
            # The one who held it may have removed the file between the two calls: then this is a lock on nothing.
            if file.stat().st_ino == os.fstat(handle).st_ino:
                os.ftruncate(handle, 0)
                os.write(handle, (json.dumps(_who(work)) + "\n").encode())
                return handle
        except BlockingIOError as problem:
            said = f"{folder}: {_holder(file)}; wait for its end, or choose another --out"
            os.close(handle)
            raise InputError(said) from problem
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def lock(handle: int) -> None:
    """Lock an open file, if the system and the file system can; raise ``BlockingIOError`` where another has it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system that knows no locks
        return


def _who(work: str) -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"work": work, "process": os.getpid(), "machine": platform.node(), "since": since}


def _holder(file: Path) -> str:
    try:
        who = json.loads(file.read_bytes()[:1000])
        return (
            f"process {int(who['process'])} on {who['machine']} is at work in it ({who['work']}, since {who['since']})"
        )
    except Exception as problem:  # it is just being written, or by something else
        return f"another process is at work in it ({reason(problem)})"
