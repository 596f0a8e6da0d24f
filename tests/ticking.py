"""A clock for what has a budget of seconds: every look at it costs the same, so a result depends on no CPU's speed."""

import itertools
import sys
import time
from types import SimpleNamespace

LOOK = 0.02  # seconds


def ticking(monkeypatch, *packages):
    """Give the loaded modules of some packages of ours one clock on which ``LOOK`` passes with every look at it."""
    looks = itertools.count()

    def monotonic():
        return LOOK * next(looks)

    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(f"overproof.{package}." for package in packages)):
            if getattr(module, "monotonic", None) is time.monotonic:
                monkeypatch.setattr(module, "monotonic", monotonic)
            if getattr(module, "time", None) is time:
                monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
