"""Where images come from: embedded digits, a hub id, local parquet, image folders, npz; all become one labelled set."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch

from overproof.archives import check_unpacked, check_zip, most_unpacked
from overproof.data.encoded import EncodedSet, Form
from overproof.data.images import MOST_CLASSES, ImageSet, balanced_subset, numbered_classes
from overproof.environment import memory
from overproof.errors import InputError, nearest
from overproof.reading import opened, parsing, reason
from overproof.wording import one_line

if TYPE_CHECKING:
    import pyarrow

Split = Literal["train", "test"]
_TEST_NAMES = ("test", "validation", "valid", "val")
_IMAGE_COLUMNS = ("image", "img")
_ROWS = 1024  # that are read of a parquet file at once
_LABEL_COLUMNS = ("label", "labels", "fine_label")


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
class Digits(Source):
    """The 1,797 handwritten digits that scikit-learn carries: 8x8, grey, 17 levels; no download.

    They come without a split; 360 drawn once (seed 0, class-balanced) are the test part.
    """

    kind: Literal["digits"] = "digits"

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
    ``label`` names the label column where there are several.
    """

    kind: Literal["hub"] = "hub"
    id: str
    label: str = ""
    form: Form = field(default_factory=Form)

    def open(self, split: Split) -> EncodedSet:
        """Find a split in ``$OVERPROOF_DATA``, the hub's cache or the hub."""
        local = Path(os.environ.get("OVERPROOF_DATA", "")) / self.id.rsplit("/", 1)[-1]
        if os.environ.get("OVERPROOF_DATA") and local.is_dir():
            return Parquet(path=str(local), label=self.label, form=self.form).open(split)
        import datasets

        datasets.disable_progress_bars()
        try:
            splits = datasets.get_dataset_split_names(self.id)
            table = datasets.load_dataset(self.id, split=_pick(split, splits, self.id)).with_format("arrow")[:]
        except InputError:
            raise
        except Exception as problem:
            # The hub's client raises a dozen unrelated types; whichever it is, the way out is the same.
            raise InputError(
                f"cannot read data set {self.id!r} from the hub ({type(problem).__name__}); check the name and the "
                f"connection, or point OVERPROOF_DATA at a folder that holds {self.id.rsplit('/', 1)[-1]!r}"
            ) from problem
        with parsing(self.id, "images of the hub"):
            return _from_table(table, self.id, self.label, self.form)


@dataclass(frozen=True, kw_only=True)
class Parquet(Source):
    """A folder of parquet files in the hub's schema: ``train-*.parquet`` and ``test-*.parquet``.

    Columns: an image (``struct<bytes, path>``) and an int64 label. A relative ``path`` that does not exist here is
    looked up under ``$OVERPROOF_DATA``. Files that take more than a quarter of the memory are read through a map of
    their Arrow form, which the ``datasets`` library writes into its cache once. An image without bytes lies in a file
    of the folder.
    """

    kind: Literal["parquet"] = "parquet"
    path: str
    label: str = ""
    form: Form = field(default_factory=Form)

    def open(self, split: Split) -> EncodedSet:
        """Read the files of one split in name order."""
        import pyarrow

        folder = find_folder(self.path)
        with parsing(folder, "parquet files"):
            files = sorted(folder.glob("**/*.parquet"))
            parts = [file.name.split("-")[0].removesuffix(".parquet") for file in files]
            if not files:
                raise InputError(f"{folder}: there are no .parquet files in this folder")

            def table(part: Split, columns: list[str] | None = None) -> "pyarrow.Table":
                wanted = _pick(part, sorted(set(parts)), str(folder))
                shards = [file for file, name in zip(files, parts, strict=True) if name == wanted]
                if columns is None and sum(file.stat().st_size for file in shards) > memory() // 4:
                    return _mapped(shards)
                return pyarrow.concat_tables(_rows(shard, columns) for shard in shards)

            try:
                return _from_table(
                    table(split),
                    folder.name,
                    self.label,
                    self.form,
                    training=lambda column: table("train", [column]),
                    root=folder,
                )
            except MemoryError:
                raise
            except (OSError, ValueError, pyarrow.ArrowException) as problem:
                if isinstance(problem, InputError):
                    raise
                raise InputError(f"{folder}: not a readable parquet file ({reason(problem)})") from problem


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """Image folders: ``path/train/<class>/*.png`` and ``path/test/<class>/*.png``."""

    kind: Literal["folder"] = "folder"
    path: str
    form: Form = field(default_factory=Form)

    def open(self, split: Split) -> EncodedSet:
        """Find every image file of one split; classes are the training folders' names in order."""
        from PIL import Image

        folder = find_folder(self.path)
        with parsing(folder, "image folders"):
            part = folder / _pick(split, _folders(folder), str(folder))
            training = folder / "train"
            classes = _folders(training) if training.is_dir() else ()
            if not classes:
                raise InputError(f"{training}: expected one folder of images per class, found none")
            known = Image.registered_extensions()
            files = [
                (_utf8(file), label)
                for label, name in enumerate(classes)
                for file in sorted((part / name).glob("*"))
                if file.suffix.lower() in known
            ]
            unknown = set(_folders(part)) - set(classes)
            if unknown:
                raise InputError(f"{part}: class {sorted(unknown)[0]!r} is not among the training folders")
            cells = _cells([file for file, _ in files])
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        return EncodedSet(folder.name, str(part), cells, torch.arange(len(labels)), labels, classes, self.form)


@dataclass(frozen=True, kw_only=True)
class Npz(Source):
    """A numpy archive with ``x_train, y_train, x_test, y_test``: images [N, H, W], [N, H, W, C] or [N, C, H, W].

    Images are uint8, or floats in [0, 1]. Integer labels; classes are numbered 0 to the largest training label.
    """

    kind: Literal["npz"] = "npz"
    path: str

    def open(self, split: Split) -> ImageSet:
        """Read the two arrays of one split."""
        file = _find(self.path)
        if not file.exists():
            raise InputError(f"{self.path}: no such file{_where_looked(self.path)}")
        with parsing(file, "a .npz archive"):
            # numpy leaves the file open when the archive in it is damaged, so it is opened (and closed) here.
            with opened(file) as stream:
                if stream.read(4) != b"PK\x03\x04":
                    raise ValueError("no zip archive")
                check_zip(stream, file)
                stream.seek(0)
                x, y, y_train = _arrays(stream, (f"x_{split}", f"y_{split}", "y_train"), file)
            for name, labels in ((f"y_{split}", y), ("y_train", y_train)):
                if not np.issubdtype(labels.dtype, np.integer):
                    raise InputError(f"{file}: labels must be integers, {name} is {labels.dtype}")
            images = _channels_first(x, str(file))
            largest = int(y_train.max()) if y_train.size else -1
            numbers = torch.from_numpy(y.astype(np.int64))
        return ImageSet(file.stem, images, numbers, numbered_classes(file.stem, largest))


def _arrays(stream: BinaryIO, names: Sequence[str], file: Path) -> list[np.ndarray[Any, Any]]:
    with np.load(stream, allow_pickle=False) as archive:
        missing = [name for name in names if name not in archive]
        if missing:
            held = one_line(", ".join(archive), 300)
            raise InputError(f"{file}: array {missing[0]!r} is missing; it holds {held}")
        return [archive[name] for name in names]


def find_folder(path: str) -> Path:
    """Return an existing folder: ``path`` itself, or under ``$OVERPROOF_DATA``; raise ``InputError`` otherwise."""
    folder = _find(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such data folder{_where_looked(path)}")
    return folder


def _find(path: str) -> Path:
    with parsing(path, "the path of a data set"):
        here, root = Path(path).expanduser(), os.environ.get("OVERPROOF_DATA")
        found = Path(root).expanduser() / here if root and not here.exists() else here
        found.exists()  # raises for what no system takes as a path
        return found


def _where_looked(path: str) -> str:
    root = os.environ.get("OVERPROOF_DATA")
    return f", neither here nor under OVERPROOF_DATA ({root})" if root else "; OVERPROOF_DATA may point at its parent"


def _pick(split: Split, names: Sequence[str], where: str) -> str:
    """Return the name that this split goes by."""
    for name in ("train",) if split == "train" else _TEST_NAMES:
        if name in names:
            return name
    raise InputError(f"{where}: no {split!r} split; found {', '.join(names) or 'nothing'}")


def _folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, in order; raise ``InputError`` for one that is not UTF-8."""
    return tuple(sorted(Path(_utf8(entry)).name for entry in folder.iterdir() if entry.is_dir()))


def _utf8(path: Path) -> str:
    try:
        str(path).encode()
    except UnicodeEncodeError as problem:  # bytes that are no text, which Python keeps as lone surrogates
        raise InputError(f"{one_line(str(path), 300)}: this name is not UTF-8 text; rename the file") from problem
    return str(path)


def _cells(files: Sequence[str]) -> "pyarrow.ChunkedArray":
    """Return images that lie in files as a column of the hub's schema."""
    import pyarrow

    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.chunked_array([[{"bytes": None, "path": file} for file in files]], kind)


def _rows(shard: Path, columns: list[str] | None) -> "pyarrow.Table":
    """Return the rows of a parquet file; raise ``InputError`` for a file whose rows take far more than its size.

    A value that occurs in many rows is stored once, so that neither the file's size nor what it says of itself bounds
    its rows. They are read a few at a time: as many as stay within the bound if each were as large as all that is
    stored.
    """
    import pyarrow
    from pyarrow import parquet

    opened(shard).close()
    size = shard.stat().st_size
    most, taken, batches = most_unpacked(size), 0, []
    with parquet.ParquetFile(shard) as file:
        known = file.metadata
        groups = [known.row_group(number).total_byte_size for number in range(known.num_row_groups)]
        check_unpacked(size, sum(groups), shard)
        at_once = max(1, min(_ROWS, most // max(1, *groups))) if groups else 1
        for batch in file.iter_batches(batch_size=at_once, columns=columns):
            taken += batch.nbytes + 8 * len(batch)  # rows of nothing are rows
            check_unpacked(size, taken, shard)
            batches.append(batch)
        if batches:
            return pyarrow.Table.from_batches(batches)
        return file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)


def _mapped(shards: Sequence[Path]) -> "pyarrow.Table":
    """Return the rows of parquet files as a table that is a map of a file and takes no memory."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("parquet", data_files=[str(shard) for shard in shards], split="train")
    return data.with_format("arrow")[:]


def _from_table(
    table: "pyarrow.Table",
    name: str,
    label: str,
    form: Form,
    *,
    training: Callable[[str], "pyarrow.Table"] | None = None,
    root: Path | None = None,
) -> EncodedSet:
    """Return the images of a table in the hub's schema.

    Where its metadata name no classes, the labels say how many there are: those of ``training``, a function from the
    label column's name to the training rows, or the table's own. Files that it names lie in ``root``.
    """
    import pyarrow

    image_column = next((column for column in _IMAGE_COLUMNS if column in table.column_names), None)
    if image_column is None:
        raise InputError(f"{name}: no image column ('image' or 'img'); found {', '.join(table.column_names)}")
    known = (label,) if label else _LABEL_COLUMNS
    label_column = next((column for column in known if column in table.column_names), None)
    if label_column is None:
        raise InputError(f"{name}: no label column {known[0]!r}{nearest(known[0], table.column_names)}")
    labels = _labels(table[label_column])
    if labels is None:
        raise InputError(f"{name}: column {label_column!r} must hold integers, one for every image")
    cells = table[image_column]
    fields = {part.name for part in cells.type} if pyarrow.types.is_struct(cells.type) else set()
    if cells.null_count or not fields >= {"bytes", "path"}:
        raise InputError(f"{name}: column {image_column!r} must hold images as struct<bytes, path>")
    classes = _class_names(table, label_column, name)
    if not classes:
        counted = _labels(training(label_column)[label_column]) if training else labels
        classes = numbered_classes(name, -1 if counted is None else int(counted.max(initial=-1)))
    rows = torch.arange(len(labels))
    return EncodedSet(name, name, cells, rows, torch.from_numpy(labels), classes, form, root)


def _labels(column: "pyarrow.ChunkedArray") -> np.ndarray[Any, Any] | None:
    """Return a column of integers as int64 ``[N]``; None for any other column, or one with holes."""
    from pyarrow import int64, types

    if column.null_count or not (types.is_integer(column.type) or types.is_boolean(column.type)):
        return None
    return np.array(column.cast(int64()).to_numpy(), dtype=np.int64)  # a copy that torch may write to


def _class_names(table: "pyarrow.Table", column: str, where: str) -> tuple[str, ...]:
    """Return the class names that the hub writes into the schema's metadata, or nothing.

    Raises ``InputError`` for metadata of another shape.
    """
    with parsing(where, "the hub's metadata of a table"):
        metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        feature: Any = metadata.get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names") or ()
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError("names of classes are a list of texts")
        if len(names) > MOST_CLASSES:
            raise ValueError(f"{len(names):,} classes are more than {MOST_CLASSES:,}")
        "".join(names).encode()  # a lone surrogate is no text
        return tuple(names)


def _channels_first(x: np.ndarray[Any, Any], where: str) -> torch.Tensor:
    """Return ``[N, C, H, W]`` from an array with no channel axis, or one at the end or in second place."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4:
        raise InputError(f"{where}: expected images [N, H, W], [N, H, W, C] or [N, C, H, W], got {x.shape}")
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    if x.dtype not in (np.uint8, np.float32):
        raise InputError(f"{where}: images must be uint8 or floats in [0, 1], got {x.dtype}")
    return torch.from_numpy(np.ascontiguousarray(x))
