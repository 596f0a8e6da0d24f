"""A second stream of images beside a data set: read by map, shown as a fixed share of every batch.

As in "Better Diffusion Models Further Improve Adversarial Training" (Wang et al., ICML 2023): the share is drawn with
replacement, and an epoch stays as long as that of the real images alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import floor
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import torch
from torch import Tensor

from overproof.archives import check_zip
from overproof.data.arrays import images_of, labels_of
from overproof.data.images import Batch, ImageSet, pixels
from overproof.data.places import find, where_looked
from overproof.data.sources import Extra, Npz
from overproof.data.streaming import Stream
from overproof.errors import InputError
from overproof.reading import opened, parsing
from overproof.signature import Signature

UNLABELLED = -1
"""The label of an image that has none."""
_AT_ONCE = 2**14  # images that are hashed at a time


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """Pixels ``[M, H, W, C]`` or, where ``channels_first``, ``[M, C, H, W]`` (a map of a file or not), labels ``[M]``.

    Labels are int64, ``UNLABELLED`` where the recipe takes none from here.
    """

    name: str
    array: np.ndarray[Any, Any]
    labels: Tensor
    channels_first: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: Tensor) -> Tensor:
        """Return the images at these rows, int64 on the CPU, as ``[N, C, H, W]`` on the CPU."""
        images = torch.from_numpy(self.array[rows.numpy()])  # indexed by an array: a copy, and no map any more
        return images if self.channels_first else images.permute(0, 3, 1, 2)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shape, pixels and labels."""
        body = sha256(f"{self.array.shape} {self.array.dtype}".encode())
        for start in range(0, len(self), _AT_ONCE):
            body.update(np.ascontiguousarray(self.array[start : start + _AT_ONCE]).data)
        body.update(self.labels.numpy().data)
        return body.hexdigest()


@dataclass(frozen=True, eq=False)
class Mixture:
    """Real images and ``extra`` ones, numbered behind them: what a loader reads from, and as long as the real ones.

    ``taught`` says that images without a label are to have the teacher's.
    """

    real: ImageSet | Stream
    extra: ExtraImages
    fraction: float
    taught: bool = False

    def __len__(self) -> int:
        return len(self.real)

    @property
    def device(self) -> torch.device:
        """Where the real images are, and those of a batch."""
        return self.real.device

    @property
    def signature(self) -> Signature:
        """What the set asks of a network."""
        return self.real.signature

    @cached_property
    def labels(self) -> Tensor:
        """Int64 ``[N + M]``, on the device; ``UNLABELLED`` where there is none."""
        return torch.cat([self.real.labels, self.extra.labels.to(self.device)])

    def rows(self, order: Tensor, sizes: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the numbers of the images of each batch of an epoch: real ones in their order, then drawn extra ones.

        ``order`` are the real images' numbers, ``sizes`` those of the batches.
        """
        batches, start = [], 0
        for size in sizes:
            drawn = floor(self.fraction * size + 1e-9)  # 0.29 of 100 are 29
            more = torch.randint(len(self.extra), (drawn,), generator=generator)
            batches.append(torch.cat([order[start : start + size - drawn], len(self.real) + more]))
            start += size - drawn
        return tuple(batches)

    def gather(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each part, int64 ``[M]`` on the CPU, in its order, on the device."""
        of_real = [part < len(self.real) for part in parts]
        wanted = [part[mine] for part, mine in zip(parts, of_real, strict=True)]
        real = self.real.gather([part for part in wanted if len(part)])
        for part, mine in zip(parts, of_real, strict=True):
            more = self.extra.at(part[~mine] - len(self.real)).to(self.device)
            if not mine.any():
                yield more
                continue
            images = next(real)
            if mine.all():
                yield images
                continue
            more = more if images.dtype == more.dtype else pixels(more)
            whole = images.new_empty(len(part), *images.shape[1:])
            place = mine.to(self.device)
            whole[place], whole[~place] = images, more
            yield whole

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the real images in order as batches of at most ``size``."""
        yield from self.real.batches(size)


def open_extra(extra: Extra, real: Signature) -> ExtraImages:
    """Return the second stream of a data set; raise ``InputError`` where it does not fit the ``real`` images."""
    images = _generated(extra.source) if isinstance(extra.source, Npz) else None
    if images is None:
        of_source = extra.source.load("train")
        images = ExtraImages(of_source.name, of_source.images.numpy(), of_source.labels)
        if extra.labels == "theirs" and len(of_source.classes) != real.classes:
            raise InputError(
                f"data.extra: {images.name} has {len(of_source.classes)} classes, the data {real.classes}; use the "
                "same classes, or labels: teacher or none"
            )
    shape = (
        tuple(images.array.shape[1:]) if images.channels_first else (images.array.shape[3], *images.array.shape[1:3])
    )
    if shape != (real.channels, real.height, real.width):
        raise InputError(
            f"data.extra: {images.name} has images of {'x'.join(map(str, shape))} (channels, height, width), the data "
            f"of {real.channels}x{real.height}x{real.width}; make them alike"
        )
    if extra.labels != "theirs":
        return ExtraImages(
            images.name, images.array, torch.full((len(images),), UNLABELLED), channels_first=images.channels_first
        )
    if int(images.labels.min()) < 0:
        raise InputError(f"data.extra: {images.name} has no labels; use labels: teacher or none")
    if (largest := int(images.labels.max())) >= real.classes:
        raise InputError(
            f"data.extra: {images.name} has a label {largest}, and the data {real.classes} classes (0 to "
            f"{real.classes - 1}); use labels: teacher or none"
        )
    return images


def _generated(source: Npz) -> ExtraImages | None:
    """Return the images of an archive as generated ones are published; None where it holds no array ``image``."""
    file = find(source.path)
    if not file.exists():
        raise InputError(f"data.extra: {source.path}: no such file{where_looked()}")
    with parsing(file, "a .npz archive"), opened(file) as stream:
        check_zip(stream, file)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            if "image" not in archive:
                return None
            labels = labels_of(archive["label"], "label", str(file))[0] if "label" in archive else None
            array = _mapped(str(file)) if _is_stored(str(file)) else archive["image"]
    if not len(array):
        raise InputError(f"data.extra: {file}: there are no images")
    if array.dtype != np.uint8:
        read, _ = images_of(array, "image", str(file))
        array, first = read.numpy(), True
    elif array.ndim == 4 and (array.shape[3] in (1, 3) or array.shape[1] in (1, 3)):
        first = array.shape[3] not in (1, 3)
    elif array.ndim == 3:
        array, first = array[:, None], True
    else:
        raise InputError(f"data.extra: {file}: expected images [N, H, W, C], got {list(array.shape)}")
    if labels is not None and len(labels) != len(array):
        raise InputError(f"data.extra: {file}: {len(array):,} images and {len(labels):,} labels")
    known = torch.full((len(array),), UNLABELLED) if labels is None else torch.from_numpy(labels)
    return ExtraImages(file.stem, array, known, channels_first=first)


def _is_stored(file: str) -> bool:
    with ZipFile(file) as archive:
        return archive.getinfo("image.npy").compress_type == ZIP_STORED


def _mapped(file: str) -> np.ndarray[Any, Any]:
    """Return an array that lies in an archive uncompressed, as a map of the file."""
    with ZipFile(file) as archive:
        info = archive.getinfo("image.npy")
        with archive.open(info) as part:
            version = np.lib.format.read_magic(part)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(part)
            header = part.tell()
    with Path(file).open("rb") as stream:
        stream.seek(info.header_offset + 26)  # of the local header (APPNOTE 4.3.7): the lengths of name and extra field
        name, more = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    if dtype.hasobject:
        raise InputError(f"data.extra: {file}: image holds Python objects, not pixels")
    offset = info.header_offset + 30 + name + more + header
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")
