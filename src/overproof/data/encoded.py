"""A labelled set of images that are still files, each decoded when it is asked for."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

import numpy as np
import torch
from torch import Tensor

from overproof.data.images import ImageSet, check_labels
from overproof.environment import memory
from overproof.errors import InputError
from overproof.reading import opened, parsing, reason
from overproof.signature import Signature
from overproof.wording import one_line

if TYPE_CHECKING:
    import pyarrow
    from PIL.Image import Image

_BILINEAR = 2  # Pillow's number for it, which the type checker asks for
_PORTION = 256  # images that a thread takes at once
_MOST_PIXELS = 2**26  # of one image; a small file can claim any number, and decoding it takes their memory
_FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "PCX", "ICO"),
    *("SGI", "QOI"),
)
"""What is decoded. Pillow's other readers would start a program (Ghostscript, for EPS) or are for no pictures."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What every image is made into: a square of ``size`` pixels with 1 (grey) or 3 (colour) ``channels``.

    A size resizes the shorter side and crops the middle. 0 leaves images as they are; then all must be like the first.
    """

    size: int = 0
    channels: Literal[0, 1, 3] = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size is a number of pixels (0: as stored), got {self.size}")


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Images as ``cells``, an Arrow column of ``struct<bytes, path>`` (the hub's schema), which may lie on disk.

    Example i is cell ``rows[i]`` with label ``labels[i]``, both int64 ``[N]``. ``where`` names the set in sentences.
    Where there is a ``root``, a cell may name files in that folder alone: a table of a stranger has no say in which of
    this machine's files are read.
    """

    name: str
    where: str
    cells: "pyarrow.ChunkedArray"
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    form: Form = field(default_factory=Form)
    root: Path | None = None

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise InputError(f"{self.where}: there are no images")
        check_labels(self.name, self.labels, self.classes)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def signature(self) -> Signature:
        """What the set asks of a network; the first image says what the form leaves open."""
        channels, height, width = self._shape(0)
        return Signature(channels=channels, height=height, width=width, classes=len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.signature.channels, self.signature.height, self.signature.width

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shape, labels and the length of every file: what can be known without reading the pixels.

        An image exchanged for another of equal length goes unnoticed here.
        """
        body = sha256(str((len(self), *self.shape)).encode())
        body.update(np.ascontiguousarray(self._marks[:, 0]).data)
        body.update(self.labels.numpy().data)
        return body.hexdigest()

    def at(self, indices: Tensor) -> Self:
        """Return the examples at these indices, in their order; no pixel is read."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def read(self, index: int) -> Tensor:
        """Return one image, uint8 ``[C, H, W]``; raise ``InputError`` where it is damaged or not like the first."""
        wanted = self.signature
        with self._image(index) as image:
            _, height, width = found = self._shape_of(image)
            if found != self.shape:
                raise self._unlike(found)
            if self.form.size:
                from PIL import ImageOps

                image.draft(None, (width, height))  # a JPEG is decoded at the nearest half, quarter or eighth
                image = ImageOps.fit(image, (width, height), _BILINEAR)
            pixels = np.array(image.convert("L" if wanted.channels == 1 else "RGB"))
        return torch.from_numpy(pixels).view(height, width, -1).permute(2, 0, 1)

    def decoded(self) -> ImageSet:
        """Return the set in memory; raise ``InputError`` where it takes more than there is."""
        needed, most = len(self) * prod(self.shape), memory()
        if needed > most:
            raise InputError(f"{self.where}: its images take {needed:,} bytes of memory, and there are {most:,}")
        with parsing(self.where, "images"):
            images = torch.empty(len(self), *self.shape, dtype=torch.uint8)

        def fill(index: int) -> None:
            images[index] = self.read(index)

        _for_all(fill, len(self))
        return ImageSet(self.name, images, self.labels, self.classes)

    def check(self) -> None:
        """Open every image and read no pixel: raise ``InputError`` where one is no image or not like the first.

        Also notes every file's length and time of change, for ``check_unchanged``.
        """

        def look(index: int) -> None:
            if (found := self._shape(index)) != self.shape:
                raise self._unlike(found)

        _for_all(look, len(self))
        _ = self._marks

    def check_unchanged(self, index: int) -> None:
        """Raise ``InputError`` where a file is not the one that ``check`` saw."""
        if tuple(self._marks[index]) != self._mark(index):
            raise InputError(
                f"{self.where}: {self._cell(index)['path']} has changed since the run began to read the set"
            )

    @cached_property
    def _marks(self) -> np.ndarray[Any, Any]:
        """Length and time of change of every file, int64 ``[N, 2]``; images inside a table have their length alone."""
        from pyarrow import compute

        lengths = compute.binary_length(compute.struct_field(self.cells, "bytes"))
        marks = np.zeros((len(self), 2), dtype=np.int64)
        marks[:, 0] = np.asarray(lengths.fill_null(-1))[self.rows.numpy()]

        files = np.flatnonzero(marks[:, 0] <= 0).tolist()

        def look(number: int) -> None:
            marks[files[number]] = self._mark(files[number])

        _for_all(look, len(files))
        return marks

    def _mark(self, index: int) -> tuple[int, int]:
        cell = self._cell(index)
        if cell["bytes"]:
            return len(cell["bytes"]), 0
        try:
            found = Path(cell["path"]).stat()
        except (OSError, TypeError, ValueError):  # of a cell without a path, or with one that no system takes
            return -1, -1  # a file that is gone is a change, and is reported as one
        return found.st_size, found.st_mtime_ns

    def _cell(self, index: int) -> Mapping[str, Any]:
        with parsing(self.where, "a table of images"):  # Arrow does not look whether its texts are UTF-8
            found: Mapping[str, Any] = self.cells[int(self.rows[index])].as_py()
        return found

    def _shape(self, index: int) -> tuple[int, int, int]:
        with self._image(index) as image:
            return self._shape_of(image)

    def _shape_of(self, image: "Image") -> tuple[int, int, int]:
        size = self.form.size
        width, height = (size, size) if size else image.size
        return self.form.channels or (1 if image.mode == "L" else 3), height, width

    @contextmanager
    def _image(self, index: int) -> Iterator["Image"]:
        """Open an image; whatever goes wrong with it becomes one sentence that names it."""
        from PIL import Image

        cell = self._cell(index)
        try:
            with (
                io.BytesIO(cell["bytes"]) if cell["bytes"] else self._file(cell["path"]) as stream,
                Image.open(stream, formats=_formats()) as image,
            ):
                if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255 without a word
                    raise ValueError(f"mode {image.mode}: only 8-bit images are read")
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels are more than {_MOST_PIXELS:,}")
                yield image
        except InputError:
            raise
        except Exception as problem:
            # A damaged image raises what its format's reader trips over first.
            said = _no_address(reason(problem))
            named = one_line(cell["path"], 300) if cell["path"] else "an image"
            raise InputError(f"{self.where}: {named} cannot be decoded ({said})") from problem

    def _file(self, path: str) -> BinaryIO:
        """Open the file that a cell names; raise ``InputError`` for one that is none, or lies outside of the root."""
        file = Path(path)
        if self.root is not None and not file.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{self.where}: {one_line(path, 300)} lies outside of {self.root}, so it is not read")
        return opened(file)

    def _unlike(self, found: tuple[int, int, int]) -> InputError:
        first, other = (f"{height}x{width}" + "x3" * (channels == 3) for channels, height, width in (self.shape, found))
        return InputError(
            f"{self.where}: images must have one size and one colour mode, found {first} and {other}; "
            "data.form.size and data.form.channels make them alike"
        )


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _no_address(said: str) -> str:
    """Return what Pillow says without the place of an object in memory, which nobody can use."""
    return re.sub(r" <_io\.\w+ [^>]*>", "", said)


def _for_all(work: Callable[[int], object], count: int) -> None:
    """Call ``work`` with every index, in threads: a reader of images holds no lock while it decodes."""

    def some(start: int) -> None:
        for index in range(start, min(start + _PORTION, count)):
            work(index)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(some, range(0, count, _PORTION)):
            pass
