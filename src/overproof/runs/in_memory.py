"""A network in memory as the commands take it: an ``nn.Module`` and images, and no folder of results unless asked."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from overproof.attacks.radius import read_norm
from overproof.errors import InputError
from overproof.evaluation.in_memory import device_of
from overproof.runs.sources import AnySource

_TEMPORARY = "overproof-"


@contextmanager
def keep_where_asked(subject: AnySource, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options of a command, with a folder for its results that is gone afterwards where none is wanted.

    Only the results of a network in memory are not written without ``out``: they have no place of their own. Such a
    network stays on its device, and the global generators are given back.
    """
    given = dict(options)
    if given.get("norm") is not None:
        given["norm"] = read_norm(given["norm"])
    if not isinstance(subject, nn.Module):
        yield given
        return
    device = device_of(subject, torch.empty(0))
    given.setdefault("device", str(device))  # the user's module stays where it is
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        TemporaryDirectory(prefix=_TEMPORARY) as folder,
    ):
        if given.get("out") is None:
            for name in ("save_adversarial", "resume"):
                if given.get(name):
                    raise InputError(
                        f"{name} needs a folder: say where the results of this network go, with out=FOLDER"
                    )
            given["out"] = folder
        yield given


def run_to_end(events: Generator[Any, None, dict[str, Any]]) -> dict[str, Any]:
    """Do work that yields its progress, to its end; return its result."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            result: dict[str, Any] = end.value
            return result
