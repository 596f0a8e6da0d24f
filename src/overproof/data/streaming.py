"""Sets that do not fit on the device: worker processes decode the batches that come next while this one is used."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from overproof.data.encoded import EncodedSet
from overproof.data.images import Batch, ImageSet, pixels
from overproof.environment import memory_left
from overproof.errors import InputError
from overproof.reading import reason
from overproof.signature import Signature

_AHEAD = 2  # batches that every worker has ready
_MOST_WORKERS = 16


@dataclass(frozen=True, eq=False)
class Stream:
    """An encoded set as the loader reads it: decoded by ``workers`` processes (0: by this one), used on the device.

    To make one decodes every file once, unless that was done; raises ``InputError`` for what is damaged or not alike.
    """

    source: EncodedSet
    device: torch.device
    workers: int

    def __post_init__(self) -> None:
        if self.source.seen and self.source.seen.pixels is not None:  # there for a set that stays in memory
            object.__setattr__(self, "source", replace(self.source, seen=replace(self.source.seen, pixels=None)))
        self.source.check()

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def labels(self) -> Tensor:
        """Int64 ``[N]``, on the device."""
        return self.source.labels.to(self.device)

    @property
    def signature(self) -> Signature:
        """What the set asks of a network."""
        return self.source.signature

    def gather(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each part, int64 ``[M]`` on the CPU, in its order: uint8 on the device.

        Raises ``InputError`` where a file is damaged or was changed since the set was placed.
        """
        loader = DataLoader(
            _Decoding(self.source),
            sampler=(part.tolist() for part in parts),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=_AHEAD if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # torch's global one is the training's
        )
        for images in _alive(loader):
            if isinstance(images, str):
                raise InputError(images)
            yield images.to(self.device, non_blocking=True)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the set in order as batches of at most ``size``."""
        parts = torch.split(torch.arange(len(self)), size)
        for images, labels in zip(self.gather(parts), torch.split(self.labels, size), strict=True):
            yield Batch(pixels(images), labels)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How training images reach the device; batches are the same either way, to the bit.

    ``mode``: ``resident`` decodes all of them once and keeps them on the device, ``streamed`` decodes them again in
    every epoch, ``auto`` keeps what takes at most half of the memory. ``workers`` are the processes that decode a
    stream (0: none but the one that trains; unset: one for every CPU, at most 16).
    """

    mode: Literal["auto", "resident", "streamed"] = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is a number of processes, got {self.workers}")

    def place(self, images: ImageSet | EncodedSet, device: torch.device) -> ImageSet | Stream:
        """Return what a loader reads from; raise ``InputError`` for images that are damaged or not alike.

        A set that is in memory already stays there.
        """
        if isinstance(images, ImageSet):
            return images.to(device)
        if self.mode == "resident" or (self.mode == "auto" and _size(images) <= memory_left(device)):
            return images.decoded().to(device)
        return Stream(images, device, min(_processors(), _MOST_WORKERS) if self.workers is None else self.workers)


class _Decoding(Dataset[Tensor | str]):
    """What a worker does: from the numbers of a batch's images to the images, or to what is wrong with one."""

    def __init__(self, source: EncodedSet) -> None:
        self.source = source

    def __getitem__(self, batch: list[int]) -> Tensor | str:
        images = torch.empty(len(batch), *self.source.shape, dtype=torch.uint8)
        try:
            for place, index in enumerate(batch):
                self.source.check_unchanged(index)
                images[place] = self.source.read(index)
        except InputError as problem:
            return str(problem)  # an exception would come back with the worker's traceback for its message
        return images


def _alive(loader: DataLoader[Tensor | str]) -> Iterator[Tensor | str]:
    """Yield what workers found; raise ``InputError`` where they cannot be started, or one of them died."""
    try:
        if loader.num_workers:
            multiprocessing.Lock()  # asked first, because torch's half-made iterator would complain when it is dropped
        batches = iter(loader)
    except OSError as problem:  # no shared memory, no more processes or open files
        raise InputError(
            f"processes that decode images cannot be started ({reason(problem)}); loading.workers=0 decodes in the "
            "training process"
        ) from problem
    while True:
        try:
            images = next(batches)
        except StopIteration:
            return
        except (RuntimeError, MemoryError, OSError) as problem:
            raise InputError(
                f"a process that decodes images died ({reason(problem)}); where memory is short, fewer "
                "loading.workers help, and 0 decodes in the training process"
            ) from problem
        yield images


def _size(images: EncodedSet) -> int:
    channels, height, width = images.shape
    return len(images) * channels * height * width


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
