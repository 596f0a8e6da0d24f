"""The energy that work took, where the machine tells it: counters of CPUs, the power of a graphics card."""

from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import torch

_COUNTERS = Path("/sys/class/powercap")


class Energy:
    """Joules between entry and exit; None where nobody tells.

    CPU packages by the kernel's RAPL counters (``energy_uj``, which often only root may read), a graphics card by its
    power at both ends times the seconds, which needs NVML.
    """

    def __init__(self, device: torch.device, counters: Path = _COUNTERS) -> None:
        self._device, self._folder = device, counters
        self.joules: float | None = None

    def __enter__(self) -> Self:
        self._began, self._before = monotonic(), _counters(self._folder)
        self._watts = _watts(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        after, watts = _counters(self._folder), _watts(self._device)
        parts = [
            (after[name][0] - used) % around / 1e6 for name, (used, around) in self._before.items() if name in after
        ]
        if self._watts is not None and watts is not None:
            parts.append((self._watts + watts) / 2 * (monotonic() - self._began))
        self.joules = sum(parts) if parts else None


def _counters(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the microjoules of every CPU package, and where its counter goes around."""
    found = {}
    for place in sorted(folder.glob("intel-rapl:[0-9]*")):
        if place.name.count(":") > 1:  # a part of a package
            continue
        try:
            used, around = (int((place / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            continue
        found[place.name] = used, around
    return found


def _watts(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # torch raises many kinds where NVML is missing, and what a plan says must not end it
        return None
