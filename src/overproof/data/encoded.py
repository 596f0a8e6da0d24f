"""A labelled set of images that are still files, each decoded when it is asked for."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

import numpy as np
import torch
from torch import Tensor

from overproof.data.images import ImageSet, check_labels, print_of
from overproof.data.notes import counted, first_of, was
from overproof.data.pictures import (
    Form,
    Shape,
    decoded_image,
    holds_several,
    opened_image,
    said_of,
    shape_of,
    why_damaged,
)
from overproof.environment import memory
from overproof.errors import InputError
from overproof.reading import opened, parsing
from overproof.signature import Signature
from overproof.wording import one_line

if TYPE_CHECKING:
    import pyarrow
    from PIL.Image import Image

__all__ = ["EncodedSet", "Form", "OnError", "Seen"]

OnError = Literal["refuse", "skip"]
_PORTION = 256  # images that a thread takes at once
_KEPT = 8  # the share of memory, one of so many, that pixels may take which a look at every image has decoded


@dataclass(frozen=True, eq=False)
class Seen:
    """What a look at every image found: their ``shape``, and the ``prints`` of every cell's pixels (0: not looked at).

    ``pixels`` of every cell are kept where they are few, so that nothing is decoded twice; None otherwise.
    """

    shape: Shape
    prints: Tensor
    pixels: Tensor | None


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Images as ``cells``, an Arrow column of ``struct<bytes, path>`` (the hub's schema), which may lie on disk.

    Example i is cell ``rows[i]`` with label ``labels[i]``, both int64 ``[N]``. ``where`` names the set in sentences.
    Where there is a ``root``, a cell may name files in that folder alone: a table of a stranger has no say in which of
    this machine's files are read. ``on_error`` says what ``examined`` does about images that cannot be decoded.
    ``notes`` say what was read and what was left out, one sentence each.
    """

    name: str
    where: str
    cells: "pyarrow.ChunkedArray"
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    form: Form = field(default_factory=Form)
    root: Path | None = None
    on_error: OnError = "refuse"
    notes: tuple[str, ...] = ()
    seen: Seen | None = None

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise InputError(f"{self.where}: there are no images")
        check_labels(self.name, self.labels, self.classes)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def signature(self) -> Signature:
        """What the set asks of a network; the first image says what the form leaves open."""
        channels, height, width = self.seen.shape if self.seen else self._shape(0)
        return Signature(channels=channels, height=height, width=width, classes=len(self.classes))

    @property
    def shape(self) -> Shape:
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

    @property
    def prints(self) -> Tensor:
        """A number for the pixels of each image, int64 ``[N]``: equal images have equal numbers."""
        examined = self if self.seen else self.examined()
        assert examined.seen
        return examined.seen.prints[examined.rows]

    def at(self, indices: Tensor) -> Self:
        """Return the examples at these indices, in their order; no pixel is read."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def read(self, index: int) -> Tensor:
        """Return one image, uint8 ``[C, H, W]``; raise ``InputError`` where it is damaged or not like the first."""
        pixels, _ = self._decoded(index)
        if pixels.shape != self.shape:
            raise self._unlike(self.shape, pixels.shape)
        return torch.from_numpy(pixels)

    def decoded(self) -> ImageSet:
        """Return the set in memory.

        Raises ``InputError`` where it takes more than there is, and naming all images that cannot be decoded.
        """
        if self.seen and self.seen.pixels is not None:
            return ImageSet(self.name, self.seen.pixels[self.rows], self.labels, self.classes, self.notes)
        needed, most = len(self) * prod(self._first_shape()), memory()
        if needed > most:
            raise InputError(f"{self.where}: its images take {needed:,} bytes of memory, and there are {most:,}")
        look = self._look(keep=True)
        look.check()
        assert look.images is not None
        notes = self.notes if self.seen else (*self.notes, *said_of(look.remarks, self.where))
        return ImageSet(self.name, look.images, self.labels, self.classes, notes)

    def examined(self) -> Self:
        """Return the set after every image of it was decoded once, in threads; nothing is done where it was before.

        Raises ``InputError`` that names all images that cannot be decoded, or, with ``on_error`` ``skip``, returns the
        set without them and notes their number. Raises it, too, for an image that is not like the first.
        """
        if self.seen:
            return self
        keep = len(self) * prod(self._first_shape()) <= memory() // _KEPT
        look = self._look(keep=keep)
        whole, notes = self, said_of(look.remarks, self.where)
        if look.damaged and self.on_error == "skip" and len(look.damaged) < len(self):
            good = torch.ones(len(self), dtype=torch.bool)
            good[list(look.damaged)] = False
            whole = self.at(good.nonzero().flatten())
            number = len(look.damaged)
            left_out = f"{counted(number, 'image')} of {len(self):,} cannot be decoded and {was(number)}"
            notes += (f"{self.where}: {left_out} (on_error: skip): {first_of(self._told(look.damaged))}",)
            look.damaged.clear()
        look.check()
        prints = torch.zeros(len(self.cells), dtype=torch.int64)
        prints[self.rows] = look.prints
        pixels = None
        if look.images is not None:
            pixels = look.images
            if len(self.cells) != len(self) or not torch.equal(self.rows, torch.arange(len(self))):
                pixels = torch.empty(len(self.cells), *look.shape, dtype=torch.uint8)
                pixels[self.rows] = look.images
        return replace(whole, notes=(*self.notes, *notes), seen=Seen(look.shape, prints, pixels))

    def check(self) -> None:
        """Decode every image that was not decoded yet: raise ``InputError`` where some cannot be, or are not alike.

        Also notes every file's length and time of change, for ``check_unchanged``.
        """
        self.examined()
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
            status = Path(cell["path"]).stat()
        except (OSError, TypeError, ValueError):  # of a cell without a path, or with one that no system takes
            return -1, -1  # a file that is gone is a change, and is reported as one
        return status.st_size, status.st_mtime_ns

    def _cell(self, index: int) -> Mapping[str, Any]:
        with parsing(self.where, "a table of images"):  # Arrow does not look whether its texts are UTF-8
            cell: Mapping[str, Any] | None = self.cells[int(self.rows[index])].as_py()
        return cell or {"bytes": None, "path": None}

    def _shape(self, index: int) -> Shape:
        with self._image(index) as image:
            return shape_of(image, self.form)

    def _first_shape(self) -> Shape:
        """Return the shape of the first image that says one; raise ``InputError`` that names all where none does."""
        if self.seen:
            return self.seen.shape
        damaged = {}
        for index in range(len(self)):
            try:
                return self._shape(index)
            except InputError as problem:
                damaged[index] = problem
        raise InputError(self._sentence(damaged))

    def _look(self, *, keep: bool) -> "_Look":
        """Decode every image; ``keep`` them all."""
        shape = self._first_shape()
        with parsing(self.where, "images"):
            images = torch.empty(len(self), *shape, dtype=torch.uint8) if keep else None
        look = _Look(self, shape, images, torch.zeros(len(self), dtype=torch.int64))

        def take(index: int) -> None:
            try:
                pixels, remarks = self._decoded(index)
            except InputError as problem:
                look.damaged[index] = problem
                return
            if pixels.shape != shape:
                look.unlike.append((index, pixels.shape))
                return
            look.prints[index] = print_of(pixels)
            look.said.extend(remarks)  # a list, because threads add to it
            if images is not None:
                images[index] = torch.from_numpy(pixels)

        _for_all(take, len(self))
        return look

    def _decoded(self, index: int) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        with self._image(index) as image:
            pixels, remarks = decoded_image(image, self.form)
            return pixels, (*remarks, "several") if holds_several(image) else remarks

    @contextmanager
    def _image(self, index: int) -> Iterator["Image"]:
        """Open an image; whatever goes wrong with it becomes one sentence that names it."""
        cell = self._cell(index)
        try:
            with (
                self._file(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"]) as stream,
                opened_image(stream) as image,
            ):
                yield image
        except InputError:
            raise
        except Exception as problem:
            # A damaged image raises what its format's reader trips over first.
            named = one_line(cell["path"], 300) if cell["path"] else f"the image of row {int(self.rows[index])}"
            raise InputError(f"{self.where}: {named} cannot be decoded ({why_damaged(problem)})") from problem

    def _file(self, path: str | None) -> BinaryIO:
        """Open the file that a cell names; raise ``InputError`` for one that is none, or lies outside of the root."""
        if not path:
            raise ValueError("the row has no image")
        file = Path(path)
        if self.root is not None and not file.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{self.where}: {one_line(path, 300)} lies outside of {self.root}, so it is not read")
        return opened(file)

    def _sentence(self, damaged: Mapping[int, InputError]) -> str:
        """Return the sentence about images that cannot be decoded: the first ten, and their number."""
        told = self._told(damaged)
        number = f"{len(damaged):,} of {counted(len(self), 'image')} cannot be used: " if len(damaged) > 1 else ""
        them = "them" if len(damaged) > 1 else "it"
        return (
            f"{self.where}: {number}{first_of(told)}; mend or remove {them}, or leave {them} out with on_error: skip "
            "among the keys of data"
        )

    def _told(self, damaged: Mapping[int, InputError]) -> list[str]:
        return [str(damaged[index]).removeprefix(f"{self.where}: ") for index in sorted(damaged)]

    def _unlike(self, *shapes: tuple[int, ...]) -> InputError:
        first, other = (f"{height}x{width}" + "x3" * (channels == 3) for channels, height, width in shapes)
        return InputError(
            f"{self.where}: images must have one size and one colour mode, found {first} and {other}; "
            "form: {size: 32, channels: 3} among the keys of data makes them alike"
        )


@dataclass(frozen=True, eq=False)
class _Look:
    """What decoding every image of a set found, by their index in it."""

    of: EncodedSet
    shape: Shape
    images: Tensor | None
    prints: Tensor
    damaged: dict[int, InputError] = field(default_factory=dict)
    unlike: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def remarks(self) -> Counter[str]:
        return Counter(self.said)

    def check(self) -> None:
        """Raise ``InputError`` for images that cannot be decoded, or are not alike."""
        if self.damaged:
            raise InputError(self.of._sentence(self.damaged))
        if self.unlike:
            raise self.of._unlike(self.shape, min(self.unlike)[1])


def _for_all(work: Callable[[int], object], count: int) -> None:
    """Call ``work`` with every index, in threads: a reader of images holds no lock while it decodes."""

    def some(start: int) -> None:
        for index in range(start, min(start + _PORTION, count)):
            work(index)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(some, range(0, count, _PORTION)):
            pass
