"""Training batches: the order a function of (seed, epoch), the augmentation of (seed, epoch, batch) or of a bank."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.data.augment import Augment
from overproof.data.draws import generator_at
from overproof.data.images import Batch, ImageSet, pixels, placed
from overproof.data.streaming import Stream
from overproof.errors import InputError
from overproof.processes import ALONE, Part, Processes


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of ``batch`` images (the last of an epoch may be smaller), augmented on the images' device.

    Several ``processes`` share every batch: each yields its part of what a single one would. ``least`` is the number of
    images that a process's part must have: a smaller last batch is left out, with other images in every epoch.

    Images that are on the device and images that are streamed to it give the same batches, to the bit.
    """

    images: ImageSet | Stream
    batch: int
    augment: Augment
    seed: int
    processes: Processes = ALONE
    least: int = 1

    def __post_init__(self) -> None:
        if self.batch < (needed := self.least * self.processes.count):
            raise InputError(
                f"a batch of {self.batch} is too small: a BatchNorm of this network sees one value of every image, so "
                f"each process needs two of them; use training.batch={needed} or more"
            )

    def __len__(self) -> int:
        return len(self.images) // self.batch + (self.last >= self.least * self.processes.count)

    @property
    def last(self) -> int:
        """How many images of an epoch fill no whole batch; they are one if ``least`` permits."""
        return len(self.images) % self.batch

    @property
    def left_out(self) -> str:
        """A sentence on the last images of every epoch, where they are too few; empty otherwise."""
        if not self.last or self.last >= self.least * self.processes.count:
            return ""
        images = "the last image" if self.last == 1 else f"the last {self.last} images"
        return f"left out: {images} in the order of each epoch, too few for this network's BatchNorm to learn from"

    @property
    def like(self) -> Batch:
        """A black batch of the shape, and in the place, of a full one."""
        asked, n = self.images.signature, self.part(0).size
        shape = (n, asked.channels, asked.height, asked.width)
        return Batch(torch.zeros(shape, device=self.images.device), self.images.labels.new_zeros(n))

    def part(self, number: int) -> Part:
        """Return this process's part of batch ``number`` of an epoch."""
        return Part(self.processes, min(self.batch, len(self.images) - number * self.batch))

    def order(self, epoch: int) -> Tensor:
        """Return which image comes when in an epoch, int64 ``[N]``; drawn on the CPU, the same for every device."""
        return torch.randperm(len(self.images), generator=generator_at(torch.device("cpu"), self.seed, "order", epoch))

    def rows(self, epoch: int) -> tuple[Tensor, ...]:
        """Return which images this process's part of each batch of an epoch holds, int64, on the CPU."""
        whole = torch.split(self.order(epoch), self.batch)[: len(self)]
        return tuple(self.part(number).rows(rows) for number, rows in enumerate(whole))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on; what a batch holds does not depend on ``start``."""
        chosen = self.rows(epoch)[start:]
        bank = self.bank(self.draw(epoch)) if self.augment.draws else None
        on_device = placed(chosen, self.images.device)
        for number, (images, rows) in enumerate(zip(self.images.gather(chosen), on_device, strict=True), start):
            draws = self._fresh(epoch, number) if bank is None else bank[rows]
            yield Batch(pixels(self.augment.apply(images, draws)), self.images.labels[rows])

    def draw(self, epoch: int) -> int:
        """Return the number of the bank's draw that an epoch shows, where there is a bank."""
        return epoch % self.augment.draws

    def shown(self, draw: int, size: int) -> Iterator[Tensor]:
        """Yield the pixels of the whole set in its own order, ``size`` at a time, as one draw of the bank shows it."""
        draws = torch.split(self.bank(draw), size)
        everything = torch.split(torch.arange(len(self.images)), size)
        for number, images in enumerate(self.images.gather(everything)):
            yield pixels(self.augment.apply(images, draws[number]))

    def bank(self, draw: int) -> Tensor:
        """Return every image's draw of this number, ``[N, 5]``."""
        return self._drawn(len(self.images), "bank", draw)

    def _fresh(self, epoch: int, number: int) -> Tensor:
        """Return the draws of this process's part of a batch: its rows of those that a single process would draw."""
        part = self.part(number)
        return part.rows(self._drawn(part.whole, "augment", epoch, number))

    def _drawn(self, n: int, *place: str | int) -> Tensor:
        asked = self.images.signature
        generator = generator_at(self.images.device, self.seed, *place)
        return self.augment.draw(n, (asked.height, asked.width), generator)
