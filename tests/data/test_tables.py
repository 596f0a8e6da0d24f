"""Parquet files as people have them: which belong together, and what their columns hold."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from overproof.data.sources import Parquet
from overproof.data.tables import not_read, pick
from overproof.errors import InputError


@pytest.fixture
def table(pictures, encode):
    """Return a function: a table of as many pictures as labels."""

    def make(labels, seed=0, **more):
        column = labels if isinstance(labels, pa.Array) else pa.array(labels)
        cells = [{"bytes": encode(picture), "path": None} for picture in pictures(len(column), seed=seed)]
        return pa.table({"image": cells, "label": column, **more})

    return make


@pytest.fixture
def write(tmp_path, table):
    """Return a function: files of two images each at these places of a folder ``set``; it returns the source."""

    def make(*places):
        for number, place in enumerate(places):
            file = tmp_path / "set" / place
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table([0, 1], seed=number), file)
        return Parquet(path=str(tmp_path / "set"))

    return make


def refused(source, split="train"):
    with pytest.raises(InputError) as caught:
        source.open(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFiles:
    @pytest.mark.parametrize(
        "places",
        [
            ("train.parquet", "test.parquet"),
            ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
            ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "test-00000-of-00001-b48f5e6cbb7ad8dc.parquet"),
            ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
            ("mnist/train-00000-of-00001.parquet", "mnist/test-00000-of-00001.parquet"),
            ("train/0000.parquet", "test/0000.parquet"),
            ("mnist/train/0000.parquet", "mnist/test/0000.parquet"),
            ("cats-train.parquet", "cats-test.parquet"),
            ("TRAIN.PARQUET", "Test.Parquet"),
            ("train_0.parquet", "validation_0.parquet"),
        ],
        ids=str,
    )
    def test_usual_names(self, write, places):
        source = write(*places)
        assert [len(source.open(split)) for split in ("train", "test")] == [2, 2]
        assert source.open("train").digest != source.open("test").decoded().digest
        assert source.open("train").notes == source.open("test").notes == ()

    @pytest.mark.parametrize(
        ("places", "names"),
        [
            (("cats/train.parquet", "dogs/train.parquet"), "cats; dogs"),
            (("cats/train.parquet", "dogs/test.parquet"), "cats; dogs"),
            (("cats-train.parquet", "dogs-train.parquet"), "cats; dogs"),
            (("train-cats-0.parquet", "train-dogs-0.parquet"), "cats; dogs"),
            (("train.parquet", "old/train.parquet"), ".; old"),
        ],
        ids=str,
    )
    def test_several_data_sets_are_refused_by_their_names(self, write, tmp_path, places, names):
        source = write(*places)
        for split in ("train", "test"):
            assert refused(source, split).startswith(
                f"{tmp_path / 'set'}: the parquet files of several data sets lie here ({names}); name one's folder"
            )
        if "cats/train.parquet" in places:
            assert len(Parquet(path=str(tmp_path / "set" / "cats")).open("train")) == 2

    def test_what_is_not_read_is_said(self, write, tmp_path):
        source = write("train.parquet", "test.parquet", "validation.parquet", "notes.parquet", ".old/train.parquet")
        (tmp_path / "set" / "._train.parquet").write_bytes(b"")
        (tmp_path / "set" / "README.md").write_text("")
        left = "set: 1 hidden folder, 1 hidden file and 1 file that is no image (.md: 1) were left out"
        unknown = "set: 1 parquet file of neither part was left out: notes.parquet"
        assert source.open("train").notes == (left, unknown)
        assert source.open("test").notes == (left, unknown, "set: validation is not read")

    def test_folders_that_are_links(self, write, tmp_path):
        write("train.parquet")
        (tmp_path / "all").mkdir()
        (tmp_path / "all" / "data").symlink_to(tmp_path / "set")
        assert len(Parquet(path=str(tmp_path / "all")).open("train")) == 2

    def test_a_split_is_picked_by_its_usual_names(self):
        assert pick("test", ["train", "valid", "val"], "set") == "valid"
        with pytest.raises(InputError, match=r"^set: no 'train' split; found nothing$"):
            pick("train", [], "set")
        assert not_read("train", "train", ["train", "test", "val"], "set") == ()
        assert not_read("test", "test", ["train", "test", "val", "extra"], "set") == (
            "set: val and extra are not read",
        )


class TestColumns:
    def source(self, folder, table):
        parquet.write_table(table, folder / "train.parquet")
        return Parquet(path=str(folder))

    @pytest.mark.parametrize(
        "kind",
        [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8(), pa.int16(), pa.int32(), pa.int64()],
        ids=str,
    )
    def test_labels_of_every_width(self, tmp_path, table, kind):
        found = self.source(tmp_path, table(pa.array([0, 2, 1], kind))).open("train")
        assert (found.labels.tolist(), found.labels.dtype, found.notes) == ([0, 2, 1], torch.int64, ())

    @pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
    def test_labels_that_are_floats(self, tmp_path, table, kind):
        whole = pa.array(np.array([0, 1], kind.to_pandas_dtype()))
        found = self.source(tmp_path, table(whole)).open("train")
        assert found.labels.tolist() == [0, 1]
        assert "hold whole numbers: they are read as integers" in found.notes[0]
        half = pa.array(np.array([0, 0.5], kind.to_pandas_dtype()))
        assert "must be whole numbers from 0, column 'label' holds 0.5" in refused(self.source(tmp_path, table(half)))

    def test_labels_that_are_booleans(self, tmp_path, table):
        assert self.source(tmp_path, table([True, False])).open("train").labels.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            ([0, None, 1], "column 'label' must hold integers, one for every image; 1 of 3 rows have no label"),
            ([[1, 0], [0, 1]], "column 'label' holds lists, perhaps one-hot rows; save the number of the class"),
            (["cat", "dog"], "column 'label' must hold integers, one for every image; it holds string: number the"),
            ([0, -1], "label -1 is outside 0..0"),
        ],
        ids=str,
    )
    def test_labels_that_are_refused(self, tmp_path, table, labels, said):
        assert said in refused(self.source(tmp_path, table(labels)))

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
    def test_images_as_bytes_alone(self, tmp_path, table, kind):
        whole = table([0, 1])
        bare = pa.array([cell["bytes"] for cell in whole["image"].to_pylist()], kind)
        wanted = self.source(tmp_path, whole).load("train")
        found = self.source(tmp_path, pa.table({"image": bare, "label": whole["label"]})).load("train")
        assert torch.equal(found.images, wanted.images)

    def test_rows_without_an_image(self, tmp_path, table):
        whole = table([0, 1, 0])
        cells = pa.array([*whole["image"].to_pylist()[:2], None], whole["image"].type)
        holes = pa.table({"image": cells, "label": whole["label"]})
        with pytest.raises(InputError, match=r"the image of row 2 cannot be decoded \(the row has no image\)"):
            self.source(tmp_path, holes).load("train")
        skipping = Parquet(path=str(tmp_path), on_error="skip").open("train")
        assert skipping.labels.tolist() == [0, 1]
        assert (
            "1 image of 3 cannot be decoded and was left out (on_error: skip): the image of row 2" in skipping.notes[0]
        )

    def test_columns_that_are_not_read_are_said(self, tmp_path, table):
        assert self.source(tmp_path, table([0, 1], coarse_label=[1, 0])).open("train").notes == (
            f"{tmp_path.name}: the labels are column 'label'; not read: coarse_label",
        )
