"""A labelled set of images as two tensors, and what must hold before anything learns from it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from overproof.data.draws import generator_at
from overproof.errors import InputError
from overproof.signature import Signature

MOST_CLASSES = 100_000
"""Of a data set; ImageNet's largest has 21,841."""


class Batch(NamedTuple):
    """Pixels ``x`` float ``[N, C, H, W]`` in [0, 1] and labels ``y`` int64 ``[N]``."""

    x: Tensor
    y: Tensor


class Labelled(Protocol):
    """What can be split and asked about without a look at a pixel: images in memory, or still in their files."""

    @property
    def name(self) -> str:
        """What the set is called."""

    @property
    def labels(self) -> Tensor:
        """Int64 ``[N]``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """One name per class."""

    @property
    def signature(self) -> Signature:
        """What the set asks of a network."""

    @property
    def digest(self) -> str:
        """SHA-256 by which a run knows its images again."""

    @property
    def prints(self) -> Tensor:
        """A number for the pixels of each image, int64 ``[N]``: equal images have equal numbers."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read and what was left out, one sentence each."""

    def __len__(self) -> int: ...

    def at(self, indices: Tensor) -> Self:
        """Return the examples at these indices, in their order."""

    def decoded(self) -> "ImageSet":
        """Return the set in memory."""

    def examined(self) -> Self:
        """Return the set after every image was decoded; raise ``InputError`` that names all that cannot be."""


AnySet = TypeVar("AnySet", bound=Labelled)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """``images`` uint8 ``[N, C, H, W]`` (or float32 in [0, 1]), ``labels`` int64 ``[N]``, one name per class.

    ``notes`` say what was read and what was left out, one sentence each.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.dim() != 1 or len(self.images) != len(self.labels):
            raise InputError(
                f"{self.name}: expected images [N, C, H, W] and as many labels, got {tuple(self.images.shape)} "
                f"and {tuple(self.labels.shape)}"
            )
        if len(self.labels) == 0:
            raise InputError(f"{self.name}: there are no images")
        if self.images[0].numel() == 0:
            raise InputError(f"{self.name}: images of {list(self.images.shape[1:])} have no pixels")
        check_labels(self.name, self.labels, self.classes)
        if self.images.dtype != torch.uint8:
            self._check_floats()

    def _check_floats(self) -> None:
        if self.images.dtype != torch.float32:
            raise InputError(f"{self.name}: images must be uint8 or float32, got {self.images.dtype}")
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0 and high <= 1):
            raise InputError(f"{self.name}: {why_not_pixels(low, high)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def signature(self) -> Signature:
        """What the set asks of a network."""
        channels, height, width = self.images.shape[1:]
        return Signature(channels=channels, height=height, width=width, classes=len(self.classes))

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def digest(self) -> str:
        """SHA-256 over shape, pixels and labels: the same images in the same order have the same digest."""
        body = sha256(str(tuple(self.images.shape)).encode())
        body.update(np.ascontiguousarray(self.images.cpu().numpy()).data)
        body.update(np.ascontiguousarray(self.labels.cpu().numpy()).data)
        return body.hexdigest()

    @property
    def prints(self) -> Tensor:
        """A number for the pixels of each image, int64 ``[N]``: equal images have equal numbers."""
        return torch.tensor([print_of(image) for image in self.images.cpu().numpy()], dtype=torch.int64)

    def at(self, indices: Tensor) -> Self:
        """Return the examples at these indices, in their order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def decoded(self) -> Self:
        """Return itself: it is in memory."""
        return self

    def examined(self) -> Self:
        """Return itself: every image was read."""
        return self

    def to(self, device: torch.device) -> Self:
        """Return the set with its tensors on the device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def gather(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each part, int64 ``[M]`` on the CPU, in its order."""
        for part in placed(parts, self.device):
            yield self.images[part]

    def batches(self, size: int) -> Iterable[Batch]:
        """Yield the set in order as batches of at most ``size``."""
        for start in range(0, len(self), size):
            yield Batch(pixels(self.images[start : start + size]), self.labels[start : start + size])


def print_of(pixels: np.ndarray[Any, Any]) -> int:
    """Return a number of 63 bits for an image's pixels and shape; others have it by chance alone, once in 2**63."""
    body = blake2b(str(pixels.shape).encode(), digest_size=8)
    body.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(body.digest(), "big") >> 1


def numbered_classes(name: str, largest: int) -> tuple[str, ...]:
    """Return the names of classes that have none: ``0`` to the largest label; raise ``InputError`` for too large a one.

    A label is one number in a file, and as many names in memory.
    """
    if largest >= MOST_CLASSES:
        raise InputError(f"{name}: label {largest} is too large; classes are numbered from 0, at most {MOST_CLASSES:,}")
    return tuple(str(label) for label in range(largest + 1))


def check_labels(name: str, labels: Tensor, classes: tuple[str, ...]) -> None:
    """Raise ``InputError`` where a label ``[N]`` is none of the classes."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise InputError(
            f"{name}: label {low if low < 0 else high} is outside 0..{len(classes) - 1} "
            f"({len(classes)} classes are named)"
        )


def why_not_pixels(low: float, high: float) -> str:
    """Return what is wrong with float images that span another range than [0, 1], and the way out."""
    advice = "undo the normalisation"
    if low >= 0:
        advice = "divide by 255" if 128 < high <= 255 else f"divide by the value that is white ({high:g}, or more)"
    elif low != low or high != high:
        advice = "remove what is not a number"
    return f"float images must lie in [0, 1], these span [{low:g}, {high:g}]; {advice}"


def placed(parts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Return tensors of equal type on the device, in one copy: each copy by itself would be waited for."""
    return torch.split(torch.cat([*parts]).to(device), [len(part) for part in parts]) if parts else ()


def pixels(images: Tensor) -> Tensor:
    """Return images as float32 pixels in [0, 1]; uint8 is divided by 255 exactly as ``pixel / 255``."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def check_trainable(images: Labelled, batch: int) -> None:
    """Raise ``InputError`` where a set cannot be learnt from: one class, a class without examples, too few images."""
    counts = torch.bincount(images.labels.cpu(), minlength=len(images.classes))
    if int((counts > 0).sum()) < 2:
        raise InputError(f"{images.name}: every training image has the same label, so there is nothing to learn")
    absent = [images.classes[index] for index in (counts == 0).nonzero().flatten().tolist()]
    if absent:
        raise InputError(f"{images.name}: no training image of class {', '.join(map(repr, absent))}")
    if batch > len(images):
        raise InputError(f"{images.name}: a batch of {batch} is larger than the {len(images)} training images")


def check_held_out(images: Labelled, kept: Labelled) -> None:
    """Raise ``InputError`` where a class has training images, and all of them are held out."""
    before, after = (torch.bincount(one.labels.cpu(), minlength=len(images.classes)) for one in (images, kept))
    for label in ((before > 0) & (after == 0)).nonzero().flatten().tolist():
        number = int(before[label])
        has, them = ("one training image", "which is") if number == 1 else (f"{number} training images", "which are")
        raise InputError(
            f"{images.name}: class {images.classes[label]!r} has {has}, {them} held out for the choice of the epoch, "
            "so none is left to learn from; add images of it or leave the class out"
            + (" (or hold out less: selection.fraction)" if number > 1 else "")
        )


def hold_out(images: AnySet, fraction: float, seed: int) -> tuple[AnySet, AnySet]:
    """Split into (kept, held out): the same share of every class, at least one example of each, drawn by the seed."""
    order = torch.randperm(len(images), generator=generator_at(torch.device("cpu"), seed, "hold out"))
    labels = images.labels.cpu()[order]
    held = torch.zeros(len(images), dtype=torch.bool)
    for label in range(len(images.classes)):
        members = order[labels == label]
        held[members[: max(1, round(fraction * len(members)))]] = True
    # Both parts keep the file's order, so that a split is a set and not a shuffle.
    return images.at((~held).nonzero().flatten()), images.at(held.nonzero().flatten())


def stratified_subset(images: Labelled, count: int, seed: int) -> Tensor:
    """Return the sorted indices ``[count]`` of a subset in which every class has its share.

    The images of each class are spread evenly, in random order and from a random offset, over one line from 0 to 1; the
    subset is the beginning of that line. So every image is as likely as any other, a share of the subset estimates that
    of all images, and a smaller subset of the same seed lies within a larger one.
    """
    labels, generator = images.labels.cpu(), generator_at(torch.device("cpu"), seed, "subset")
    order = torch.randperm(len(images), generator=generator)
    offsets = torch.rand(len(images.classes), generator=generator, dtype=torch.float64)
    place = torch.empty(len(images), dtype=torch.float64)
    for label in range(len(images.classes)):
        where = order[labels[order] == label]
        place[where] = (torch.arange(len(where)) + offsets[label]) / max(1, len(where))
    return place.argsort(stable=True)[:count].sort().values


def balanced_subset(images: Labelled, count: int, seed: int) -> Tensor:
    """Return the sorted indices ``[count]`` of a subset in which class sizes differ by at most one where they can."""
    order = torch.randperm(len(images), generator=generator_at(torch.device("cpu"), seed, "subset"))
    labels = images.labels.cpu()[order]
    # Rank each example within its class, then take the lowest ranks: one of each class, a second of each, ...
    rank = torch.empty(len(images), dtype=torch.int64)
    for label in range(len(images.classes)):
        where = (labels == label).nonzero().flatten()
        rank[where] = torch.arange(len(where))
    return order[rank.argsort(stable=True)[:count]].sort().values
