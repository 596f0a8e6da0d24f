"""What a number was measured on: device, hardware, versions; and which optional packages are here."""

import os
import platform
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from types import ModuleType

import torch

from overproof.errors import InputError
from overproof.version import __version__


def pick_device(wish: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` means here; raise ``InputError`` if absent."""
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as problem:
        raise InputError(f"device {wish!r} is not available here; use auto or cpu") from problem
    return device


def memory() -> int:
    """Return the bytes that this process may use: the machine's, or less where a container or the shell gives less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.is_file() else ""
    limits = [machine, *([int(given)] if given.isdigit() else []), *_address_space()]
    return min(limits)


def _address_space() -> list[int]:
    """Return the limit of this process's address space where there is one; Windows knows none."""
    try:
        import resource
    except ModuleNotFoundError:
        return []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if soft == resource.RLIM_INFINITY else [soft]


def memory_left(device: torch.device) -> int:
    """Return the bytes one thing may take on the device: half of what is free there, and of the process's memory."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory()
    return min(free, memory()) // 2


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    return {
        "overproof": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@cache
def hardware(device: torch.device) -> str:
    """Return the name of the CPU or graphics card, and how many threads it computes with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()}"


def package(path: str, *, extra: str, where: str) -> ModuleType:
    """Return a module of an optional package; else ``InputError`` says that ``where`` needs the ``extra``."""
    try:
        return import_module(path)
    except ModuleNotFoundError as problem:  # the package, or one that it needs
        raise InputError(f"{where} needs the extra: pip install 'overproof[{extra}]'") from problem
    except Exception as problem:
        said = shorten(f"{type(problem).__name__}: {problem}", 200, placeholder=" ...").removesuffix(":")
        raise InputError(f"{where}: {path} is installed but cannot be imported ({said})") from problem
