"""Training batches: the order a function of (seed, epoch), the augmentation of (seed, epoch, batch) or of a bank."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.data.augment import Augment
from overproof.data.draws import generator_at, seed_at
from overproof.data.extra import Mixture
from overproof.data.images import Batch, ImageSet, pixels, placed
from overproof.data.mixing import Mix, drawn_mix
from overproof.data.sampling import balanced_order
from overproof.data.streaming import Stream
from overproof.errors import InputError
from overproof.processes import ALONE, Part, Processes


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of ``batch`` images (the last of an epoch may be smaller), augmented on the images' device.

    Several ``processes`` share every batch: each yields its part of what a single one would. ``least`` is the number of
    images that a process's part must have: a smaller last batch is left out, with other images in every epoch.

    Images that are on the device and images that are streamed to it give the same batches, to the bit.

    A ``Mixture`` fills a share of every batch with extra images; an epoch is as long as without them.

    ``balance`` shows rare classes more often (see ``sampling``). Where ``augment`` mixes images, labels are the shares
    of classes, ``[N, K]``.
    """

    images: ImageSet | Stream | Mixture
    batch: int
    augment: Augment
    seed: int
    processes: Processes = ALONE
    least: int = 1
    balance: float = 0.0

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
        """Return which real image comes when in an epoch, int64 ``[N]``; drawn on the CPU, alike for every device."""
        generator = generator_at(torch.device("cpu"), self.seed, "order", epoch)
        if not self.balance:
            return torch.randperm(len(self.images), generator=generator)
        return balanced_order(
            self.images.labels[: len(self.images)].cpu(), self.images.signature.classes, self.balance, generator
        )

    def rows(self, epoch: int) -> tuple[Tensor, ...]:
        """Return which images this process's part of each batch of an epoch holds, int64, on the CPU."""
        return tuple(self.part(number).rows(rows) for number, rows in enumerate(self._whole(epoch)))

    def _whole(self, epoch: int) -> tuple[Tensor, ...]:
        if not isinstance(self.images, Mixture):
            return torch.split(self.order(epoch), self.batch)[: len(self)]
        sizes = [self.part(number).whole for number in range(len(self))]
        generator = generator_at(torch.device("cpu"), self.seed, "extra", epoch)
        return self.images.rows(self.order(epoch), sizes, generator)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on; what a batch holds does not depend on ``start``."""
        if self.augment.mixes:
            yield from self._mixed(epoch, start)
            return
        chosen = self.rows(epoch)[start:]
        bank = self.bank(self.draw(epoch)) if self.augment.draws else None
        on_device = placed(chosen, self.images.device)
        for number, (images, rows) in enumerate(zip(self.images.gather(chosen), on_device, strict=True), start):
            draws = self._fresh(epoch, number) if bank is None else bank[rows]
            yield Batch(pixels(self.augment.apply(images, draws)), self.images.labels[rows])

    def _mixed(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield batches whose images are mixed with others of the whole batch, which each process augments alike."""
        whole = self._whole(epoch)[start:]
        mixes, mine, needed = list[Mix](), list[Tensor](), list[Tensor]()
        size, a = (self.images.signature.height, self.images.signature.width), self.augment
        for number, rows in enumerate(whole, start):
            seed = seed_at(self.seed, "mix", epoch, number)
            mixes.append(drawn_mix(len(rows), size, seed, mixup=a.mixup, cutmix=a.cutmix))
            mine.append(self.part(number).rows(torch.arange(len(rows))))
            needed.append(torch.unique(torch.cat([mine[-1], mixes[-1].partner[mine[-1]]])))
        bank = self.bank(self.draw(epoch)) if a.draws else None
        chosen = [rows[places] for rows, places in zip(whole, needed, strict=True)]
        on_device = placed(chosen, self.images.device)
        for index, images in enumerate(self.images.gather(chosen)):
            mix, own, places, rows = mixes[index], mine[index], needed[index], on_device[index]
            draws = self._batch_draws(epoch, start + index)[places.to(rows.device)] if bank is None else bank[rows]
            x, y = pixels(a.apply(images, draws)), self.images.labels[rows]
            at = [torch.searchsorted(places, one.contiguous()).to(rows.device) for one in (own, mix.partner[own])]
            first, second = (Batch(x[one], y[one]) for one in at)
            yield mix.applied(first, second, own, self.images.signature.classes)

    def draw(self, epoch: int) -> int:
        """Return the number of the bank's draw that an epoch shows, where there is a bank."""
        return epoch % self.augment.draws

    def shown(self, draw: int, size: int) -> Iterator[Tensor]:
        """Yield the pixels of the whole set in its own order, ``size`` at a time, as one draw of the bank shows it."""
        draws = torch.split(self.bank(draw), size)
        everything = torch.split(torch.arange(len(self.images.labels)), size)
        for number, images in enumerate(self.images.gather(everything)):
            yield pixels(self.augment.apply(images, draws[number]))

    def bank(self, draw: int) -> Tensor:
        """Return every image's draw of this number, a row for each."""
        return self._drawn(len(self.images.labels), "bank", draw)

    def _fresh(self, epoch: int, number: int) -> Tensor:
        """Return the draws of this process's part of a batch: its rows of those that a single process would draw."""
        return self.part(number).rows(self._batch_draws(epoch, number))

    def _batch_draws(self, epoch: int, number: int) -> Tensor:
        """Return the draws of all rows of a batch, whoever holds them."""
        return self._drawn(self.part(number).whole, "augment", epoch, number)

    def _drawn(self, n: int, *place: str | int) -> Tensor:
        asked = self.images.signature
        generator = generator_at(self.images.device, self.seed, *place)
        return self.augment.draw(n, (asked.height, asked.width), generator)
