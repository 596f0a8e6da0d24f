"""The loader for sets that fit on the device: the order a function of (seed, epoch), augmentation of the batch too."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from overproof.data.augment import Augment
from overproof.data.draws import drawing, generator_at
from overproof.data.images import Batch, ImageSet, pixels
from overproof.processes import ALONE, Part, Processes


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of ``batch`` images (the last of an epoch may be smaller) from a set already on its device.

    Several ``processes`` share every batch: each yields its part of what a single one would.
    """

    images: ImageSet
    batch: int
    augment: Augment
    seed: int
    processes: Processes = ALONE

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def part(self, number: int) -> Part:
        """Return this process's part of batch ``number`` of an epoch."""
        return Part(self.processes, min(self.batch, len(self.images) - number * self.batch))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on; what a batch holds does not depend on ``start``."""
        device = self.images.images.device
        # The order is drawn on the CPU, so that it is the same on every device.
        order = torch.randperm(
            len(self.images), generator=generator_at(torch.device("cpu"), self.seed, "order", epoch)
        ).to(device)
        for number in range(start, len(self)):
            part = self.part(number)
            chosen = part.rows(order[number * self.batch : (number + 1) * self.batch])
            draws = generator_at(device, self.seed, "augment", epoch, number)
            with drawing(part):
                images = self.augment(self.images.images[chosen], draws)
            yield Batch(pixels(images), self.images.labels[chosen])
