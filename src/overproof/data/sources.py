"""Where images come from: embedded digits, a hub id, local parquet, image folders, npz; all become one labelled set."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch

from overproof.archives import check_zip
from overproof.data.arrays import images_of, labels_of
from overproof.data.encoded import EncodedSet, Form, OnError
from overproof.data.folders import Left, as_text, files_below, subfolders
from overproof.data.hub import hub_table
from overproof.data.images import ImageSet, balanced_subset, numbered_classes
from overproof.data.notes import counted
from overproof.data.pictures import suffixes
from overproof.data.places import MissingPartError, data_root, find, find_folder, where_looked
from overproof.data.tables import Reading, Shards, not_read, pick, set_of, table_of
from overproof.errors import InputError
from overproof.reading import is_folder, opened, parsing, reason
from overproof.wording import one_line

if TYPE_CHECKING:
    import pyarrow

Split = Literal["train", "test"]
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


class Source(ABC):
    """The frozen description of a data set; every subclass is a keyword-only frozen dataclass with a ``kind``."""

    kind: str

    @abstractmethod
    def open(self, split: Split) -> ImageSet | EncodedSet:
        """Return one split, in memory or still in its files; raise ``InputError`` where it is missing or malformed."""

    def load(self, split: Split) -> ImageSet:
        """Read one split into memory, on the CPU; raise ``InputError`` where it is missing or malformed."""
        return self.open(split).decoded()


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A second stream of images for training: ``fraction`` of every batch, drawn with replacement.

    ``source`` is any source, whose training part is taken, or an archive of generated images as published, with arrays
    ``image`` (uint8 ``[N, H, W, C]``) and ``label``, which is read by map where it is not compressed. Whose
    ``labels``: ``theirs``; the ``teacher``'s, asked about every image as it is shown; or ``none``, for methods that
    read none. An epoch is as long as that of the real images alone, which fill the rest of every batch; nothing is held
    out from here, and nothing of it is in a test part.
    """

    source: Source
    fraction: float
    labels: Literal["theirs", "teacher", "none"] = "theirs"

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(
                f"fraction is the share of extra images in every batch, between 0 and 1, got {self.fraction:g}"
            )
        if getattr(self.source, "extra", None) is not None:
            raise ValueError("the source of extra images cannot have extra images of its own")


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """The 1,797 handwritten digits that scikit-learn carries: 8x8, grey, 17 levels; no download.

    They come without a split; 360 drawn once (seed 0, class-balanced) are the test part.
    """

    kind: Literal["digits"] = "digits"
    extra: Extra | None = None

    def open(self, split: Split) -> ImageSet:
        """Return 1,437 training or 360 test images ``[N, 1, 8, 8]`` uint8."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        everything = ImageSet("digits", images, labels, tuple("0123456789"))
        in_test = torch.zeros(len(labels), dtype=torch.bool)
        in_test[balanced_subset(everything, 360, seed=0)] = True
        return everything.at((in_test if split == "test" else ~in_test).nonzero().flatten())


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """A data set of the Hugging Face hub by its ``id``.

    A folder ``$OVERPROOF_DATA/<last part of the id>`` with the hub's parquet files is used first, where there is one.
    ``label`` names the label column where there are several, ``config`` the configuration where there are several.
    ``on_error: skip`` leaves out images that cannot be decoded, and notes their number.
    """

    kind: Literal["hub"] = "hub"
    id: str
    config: str = ""
    label: str = ""
    form: Form = field(default_factory=Form)
    on_error: OnError = "refuse"
    extra: Extra | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{one_line(self.id, 100)!r} is no id of the hub, which is written org/name")

    def open(self, split: Split) -> EncodedSet:
        """Find a split in ``$OVERPROOF_DATA``, the hub's cache or the hub."""
        name, root = self.id.rsplit("/", 1)[-1], data_root()
        if root and is_folder(root / name):
            path = str((root / name / self.config) if self.config else root / name)
            return Parquet(path=path, label=self.label, form=self.form, on_error=self.on_error).open(split)
        table, splits, picked = hub_table(self.id, self.config, split)
        with parsing(self.id, "images of the hub"):
            reading = Reading(label=self.label, form=self.form, on_error=self.on_error)
            return _cleared(set_of(table, self.id, reading, notes=not_read(split, picked, splits, self.id)))


@dataclass(frozen=True, kw_only=True)
class Parquet(Source):
    """A folder of parquet files in the hub's schema: ``train-*.parquet`` and ``test-*.parquet``.

    Columns: an image (``struct<bytes, path>``) and an int64 label. A relative ``path`` that does not exist here is
    looked up under ``$OVERPROOF_DATA``. Files that take more than a quarter of the memory are read through a map of
    their Arrow form, which the ``datasets`` library writes into its cache once. An image without bytes lies in a file
    of the folder. ``on_error: skip`` leaves out images that cannot be decoded, and notes their number.
    """

    kind: Literal["parquet"] = "parquet"
    path: str
    label: str = ""
    form: Form = field(default_factory=Form)
    on_error: OnError = "refuse"
    extra: Extra | None = None

    def open(self, split: Split) -> EncodedSet:
        """Read the files of one split in name order."""
        import pyarrow

        folder = find_folder(self.path)
        with parsing(folder, "parquet files"):
            shards = Shards.of(folder)
            names = sorted(shards.parts)
            picked = pick(split, names, str(folder))

            def training(column: str) -> "pyarrow.Table":
                return table_of(shards.parts[pick("train", names, str(folder))], [column])

            try:
                images = set_of(
                    table_of(shards.parts[picked]),
                    folder.name,
                    Reading(label=self.label, form=self.form, on_error=self.on_error),
                    training=training,
                    root=folder,
                    notes=(*shards.notes, *not_read(split, picked, names, folder.name)),
                )
            except MemoryError:
                raise
            except (OSError, ValueError, pyarrow.ArrowException) as problem:
                if isinstance(problem, InputError):
                    raise
                raise InputError(f"{folder}: not a readable parquet file ({reason(problem)})") from problem
        return _cleared(images)


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """Image folders: ``path/train/<class>/*.png`` and ``path/test/<class>/*.png``.

    Images in folders below a class's own count as that class's. Hidden files and folders, and files that are no images,
    are left out and counted. ``on_error: skip`` leaves out images that cannot be decoded, and notes their number.
    """

    kind: Literal["folder"] = "folder"
    path: str
    form: Form = field(default_factory=Form)
    on_error: OnError = "refuse"
    extra: Extra | None = None

    def open(self, split: Split) -> EncodedSet:
        """Find every image file of one split; classes are the training folders' names in order."""
        folder = find_folder(self.path)
        with parsing(folder, "image folders"):
            names = subfolders(folder, Left())
            try:
                picked = pick(split, names, str(folder))
            except MissingPartError as problem:
                raise MissingPartError(f"{problem}; expected train/<class>/*.png and test/<class>/*.png") from problem
            part, training, left = folder / picked, folder / "train", Left()
            classes = subfolders(training, Left()) if training.is_dir() else ()
            if not classes:
                raise InputError(f"{training}: expected one folder of images per class, found none")
            if unknown := set(subfolders(part, left)) - set(classes):
                raise InputError(f"{part}: class {sorted(unknown)[0]!r} is not among the training folders")
            known = suffixes()
            left.beside = sum(one.suffix.lower() in known and one.is_file() for one in part.iterdir())
            files = [
                (file, label)
                for label, name in enumerate(classes)
                if (part / name).is_dir()
                for file in files_below(part / name, known, left)
            ]
            said = left.sentence()
            if not files:
                raise InputError(f"{part}: there are no images" + (f"; {said}" if said else ""))
            cells = _cells([as_text(file) for file, _ in files])
        deeper = sum(file.parent.parent != part for file, _ in files)
        notes = [f"{part}: {said}"] if said else []
        if deeper:
            of = f"{deeper:,} of {counted(len(files), 'image')}"
            notes.append(f"{part}: {of} lie in folders below those of the classes and count as the class above")
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        notes += not_read(split, picked, names, folder.name)
        return _cleared(
            EncodedSet(
                folder.name,
                str(part),
                cells,
                torch.arange(len(labels)),
                labels,
                classes,
                self.form,
                on_error=self.on_error,
                notes=tuple(notes),
            )
        )


@dataclass(frozen=True, kw_only=True)
class Npz(Source):
    """A numpy archive with ``x_train, y_train, x_test, y_test``: images [N, H, W], [N, H, W, C] or [N, C, H, W].

    Images are uint8, or floats in [0, 1]. Integer labels [N] or [N, 1]; classes are numbered 0 to the largest training
    label.
    """

    kind: Literal["npz"] = "npz"
    path: str
    extra: Extra | None = None

    def open(self, split: Split) -> ImageSet:
        """Read the two arrays of one split."""
        file = find(self.path)
        if not file.exists():
            raise InputError(f"{self.path}: no such file{where_looked()}")
        # numpy leaves the file open when the archive in it is damaged, so it is opened (and closed) here.
        with parsing(file, "a .npz archive"), opened(file) as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise ValueError("no zip archive")
            check_zip(stream, file)
            stream.seek(0)
            return _of_archive(stream, split, file)


def _of_archive(stream: BinaryIO, split: Split, file: Path) -> ImageSet:
    with np.load(stream, allow_pickle=False) as archive:
        for name in (f"x_{split}", f"y_{split}", "y_train"):
            if name not in archive:
                held = one_line(", ".join(archive), 300)
                kind = InputError if split == "train" or name == "y_train" else MissingPartError
                raise kind(f"{file}: array {name!r} is missing; it holds {held}")
        other = "x_test" if split == "train" else "x_train"

        def others() -> np.ndarray[Any, Any] | None:
            others: np.ndarray[Any, Any] | None = archive.get(other)
            return others

        labels, said_of_labels = labels_of(archive[f"y_{split}"], f"y_{split}", str(file))
        training = labels if split == "train" else labels_of(archive["y_train"], "y_train", str(file))[0]
        images, said_of_images = images_of(archive[f"x_{split}"], f"x_{split}", str(file), others)
        rest = sorted(set(archive) - set(_ARRAYS))
    notes = [f"{file.name}: {said}" for said in (*said_of_images, *said_of_labels)]
    if rest:
        notes.append(f"{file.name}: not read: {one_line(', '.join(rest), 300)}")
    classes = numbered_classes(file.stem, int(training.max(initial=-1)))
    return ImageSet(file.stem, images, torch.from_numpy(labels), classes, tuple(notes))


def _cells(files: Sequence[str]) -> "pyarrow.ChunkedArray":
    """Return images that lie in files as a column of the hub's schema."""
    import pyarrow

    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.chunked_array([[{"bytes": None, "path": file} for file in files]], kind)


def _cleared(images: EncodedSet) -> EncodedSet:
    """Return a set without its damaged images where its source leaves them out: subsets are drawn of the others."""
    return images.examined() if images.on_error == "skip" else images
