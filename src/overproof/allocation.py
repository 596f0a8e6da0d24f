"""Memory that a process keeps for its next tensors."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
_KEPT = 128 * 2**20  # bytes; ``benchmarks.allocation`` measures what they are worth
_LARGEST_KEPT = 32 * 2**20  # bytes; glibc allows no more


def keep_freed_memory() -> None:
    """Let this process keep, from now on, up to 128 MiB that tensors have given back.

    glibc returns to the system what is free beyond twice the largest block freed so far. The tensors of a small network
    are small blocks, so each of its steps would get most of its memory again, page by page, filled with zeros. Without
    glibc, or where the environment already says how memory is kept (``MALLOC_*``, ``GLIBC_TUNABLES``), nothing changes.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform == "linux" and not told and (say := getattr(ctypes.CDLL(None), "mallopt", None)):
        say(_MMAP_THRESHOLD, _LARGEST_KEPT)
        say(_TRIM_THRESHOLD, _KEPT)
