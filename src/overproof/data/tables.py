"""Parquet files as images: which files belong together, their rows, and what their columns mean."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from overproof.archives import check_unpacked, most_unpacked
from overproof.data.arrays import labels_of
from overproof.data.encoded import EncodedSet, Form, OnError
from overproof.data.folders import Left, as_text, files_below
from overproof.data.images import MOST_CLASSES, numbered_classes
from overproof.data.notes import counted, first_of, joined, was
from overproof.data.places import MissingPartError
from overproof.environment import memory
from overproof.errors import InputError, nearest
from overproof.reading import opened, parsing

if TYPE_CHECKING:
    import pyarrow

TEST_NAMES = ("test", "validation", "valid", "val")
_PARTS = ("train", *TEST_NAMES)
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_ROWS = 1024  # that are read of a parquet file at once
_NUMBER = re.compile(r"\d+|of|[0-9a-f]{12,}")  # what a shard's name has beside the part's: its number, a digest


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is read: the ``label`` column (empty: the usual ones), the form, what to do about damaged images."""

    label: str = ""
    form: Form = field(default_factory=Form)
    on_error: OnError = "refuse"


@dataclass(frozen=True)
class Shards:
    """The parquet files of a folder by the part that their names say, and what is to be said of the others."""

    folder: Path
    parts: dict[str, list[Path]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Shards":
        """Look for ``train-*.parquet`` and the like in and below a folder, or below folders called ``train``.

        Raises ``InputError`` where there are none, or those of several data sets.
        """
        left, splits, unknown = Left(), dict[str, dict[str, list[Path]]](), list[str]()
        for file in files_below(folder, {".parquet"}, left):
            part, group = _part_of(Path(as_text(file)).relative_to(folder))
            if part:
                splits.setdefault(part, {}).setdefault(group, []).append(file)
            else:
                unknown.append(str(file.relative_to(folder)))
        if not splits and not unknown:
            raise InputError(f"{folder}: there are no .parquet files in this folder")
        groups = sorted({group for parts in splits.values() for group in parts})
        if len(groups) > 1:
            raise InputError(
                f"{folder}: the parquet files of several data sets lie here ({first_of(groups)}); name one's folder, "
                "or keep the files of one in a folder of their own"
            )
        notes = [f"{folder.name}: {said}"] if (said := left.sentence()) else []
        if unknown:
            number = len(unknown)
            files = counted(number, "parquet file")
            notes.append(f"{folder.name}: {files} of neither part {was(number)}: {first_of(unknown)}")
        parts = {part: files for part, by_group in splits.items() for files in by_group.values()}
        return cls(folder, parts or {name.split("-")[0].removesuffix(".parquet"): [] for name in unknown}, tuple(notes))


def _part_of(file: Path) -> tuple[str, str]:
    """Return which part a file's name, or its folder's, says it is of (``""``: none), and what else its name says.

    ``cats/train-00000-of-00002.parquet`` is of train and cats; ``train/0000.parquet`` of train and nothing else.
    """
    words = re.split(r"[-_.]", file.name.lower().removesuffix(".parquet"))
    folders = [part for part in file.parts[:-1] if part != "data"]
    for part in _PARTS:
        if part in words:
            words.remove(part)
            break
        if part in folders:
            folders.remove(part)
            break
    else:
        return "", ""
    rest = [word for word in words if not _NUMBER.fullmatch(word)]
    return part, "/".join([*folders, *(["-".join(rest)] if rest else [])]) or "."


def pick(split: str, names: Sequence[str], where: str) -> str:
    """Return the name that this split goes by; raise ``MissingPartError`` where it has none."""
    for name in ("train",) if split == "train" else TEST_NAMES:
        if name in names:
            return name
    raise MissingPartError(f"{where}: no {split!r} split; found {', '.join(names) or 'nothing'}")


def not_read(split: str, picked: str, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return a note about parts that no command reads, with those of a split."""
    others = [
        name for name in names if name != picked and (name != "train" if split == "test" else name not in TEST_NAMES)
    ]
    return (f"{where}: {joined(others)} {'is' if len(others) == 1 else 'are'} not read",) if others else ()


def rows_of(shard: Path, columns: list[str] | None) -> "pyarrow.Table":
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


def table_of(shards: Sequence[Path], columns: list[str] | None = None) -> "pyarrow.Table":
    """Return the rows of parquet files; as a map of a file where they would take too much of the memory."""
    import pyarrow

    if columns is None and sum(file.stat().st_size for file in shards) > memory() // 4:
        return _mapped(shards)
    return pyarrow.concat_tables(rows_of(shard, columns) for shard in shards)


def _mapped(shards: Sequence[Path]) -> "pyarrow.Table":
    """Return the rows of parquet files as a table that is a map of a file and takes no memory."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("parquet", data_files=[str(shard) for shard in shards], split="train")
    return data.with_format("arrow")[:]


def set_of(
    table: "pyarrow.Table",
    name: str,
    reading: Reading,
    *,
    training: Callable[[str], "pyarrow.Table"] | None = None,
    root: Path | None = None,
    notes: tuple[str, ...] = (),
) -> EncodedSet:
    """Return the images of a table in the hub's schema.

    Where its metadata name no classes, the labels say how many there are: those of ``training``, a function from the
    label column's name to the training rows, or the table's own. Files that it names lie in ``root``.
    """
    image_column = next((column for column in _IMAGE_COLUMNS if column in table.column_names), None)
    if image_column is None:
        raise InputError(f"{name}: no image column ('image' or 'img'); found {', '.join(table.column_names)}")
    known = (reading.label,) if reading.label else _LABEL_COLUMNS
    label_column = next((column for column in known if column in table.column_names), None)
    if label_column is None:
        raise InputError(f"{name}: no label column {known[0]!r}{nearest(known[0], table.column_names)}")
    labels, said = _labels(table[label_column], label_column, name)
    cells = _cells_of(table[image_column], image_column, name)
    classes = _class_names(table, label_column, name)
    if not classes:
        counted_in = _labels(training(label_column)[label_column], label_column, name)[0] if training else labels
        classes = numbered_classes(name, int(counted_in.max(initial=-1)))
    others = [column for column in table.column_names if column not in (image_column, label_column)]
    if others:
        said += (f"{name}: the labels are column {label_column!r}; not read: {', '.join(others)}",)
    rows = torch.arange(len(labels))
    return EncodedSet(
        name,
        name,
        cells,
        rows,
        torch.from_numpy(labels),
        classes,
        reading.form,
        root,
        on_error=reading.on_error,
        notes=(*notes, *said),
    )


def _cells_of(column: "pyarrow.ChunkedArray", name: str, where: str) -> "pyarrow.ChunkedArray":
    """Return a column of images in the hub's schema; one of bytes alone becomes it."""
    import pyarrow
    from pyarrow import types

    if types.is_binary(column.type) or types.is_large_binary(column.type):
        pieces = [piece.cast(pyarrow.binary()) for piece in column.chunks]
        made = [
            pyarrow.StructArray.from_arrays([piece, pyarrow.nulls(len(piece), pyarrow.string())], ["bytes", "path"])
            for piece in pieces
        ]
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        return pyarrow.chunked_array(made, kind)
    fields = {part.name for part in column.type} if types.is_struct(column.type) else set()
    if not fields >= {"bytes", "path"}:
        raise InputError(f"{where}: column {name!r} must hold images as struct<bytes, path>, or as bytes")
    return column


def _labels(column: "pyarrow.ChunkedArray", name: str, where: str) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return a column of labels as int64 ``[N]``, and what is to be said of them."""
    from pyarrow import types

    if column.null_count:
        missing = f"{column.null_count:,} of {counted(len(column), 'row')} have no label"
        raise InputError(f"{where}: column {name!r} must hold integers, one for every image; {missing}")
    kind = column.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        raise InputError(
            f"{where}: column {name!r} holds lists, perhaps one-hot rows; save the number of the class instead"
        )
    if not (types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)):
        raise InputError(
            f"{where}: column {name!r} must hold integers, one for every image; it holds {kind}: number the classes "
            "from 0, and name them in the metadata (datasets.ClassLabel)"
        )
    return labels_of(column.to_numpy(), f"column {name!r}", where)


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
