import json
import os
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from overproof import archives
from overproof.data import tables
from overproof.data.encoded import Form
from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet, find_folder
from overproof.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def refused(source, split="train"):
    with pytest.raises(InputError) as caught:
        source.load(split)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


class TestDigits:
    def test_sizes_and_pixels_are_those_of_scikit_learn(self):
        from sklearn.datasets import load_digits

        train, test = Digits().load("train"), Digits().load("test")
        assert (len(train), len(test)) == (1437, 360)
        assert train.images.shape == (1437, 1, 8, 8)
        assert train.images.dtype == torch.uint8
        assert train.classes == tuple("0123456789")
        bunch = load_digits()
        written = sorted(
            (*(round(p * 255 / 16) for p in row), y) for row, y in zip(bunch.data, bunch.target, strict=True)
        )
        read = sorted(
            (*row, y)
            for part in (train, test)
            for row, y in zip(part.images.flatten(1).tolist(), part.labels.tolist(), strict=True)
        )
        assert read == written  # both parts together are the whole set, each image once: the parts are disjoint

    def test_the_test_part_is_balanced_and_always_the_same(self):
        test = Digits().load("test")
        assert torch.bincount(test.labels).tolist() == [36] * 10
        assert test.digest == Digits().load("test").digest
        assert test.digest != Digits().load("train").digest


class TestParquet:
    def test_reads_what_was_written_with_its_class_names(self, tmp_path, pictures, write_parquet):
        x, y = pictures(5), [0, 2, 1, 0, 2]
        write_parquet(tmp_path / "toy" / "data" / "train-00000-of-00001.parquet", x, y, names=["cat", "dog", "eel"])
        found = Parquet(path=str(tmp_path / "toy")).load("train")
        assert found.name == "toy"
        assert found.classes == ("cat", "dog", "eel")
        assert torch.equal(found.images, torch.from_numpy(x)[:, None])
        assert found.labels.tolist() == y
        assert found.labels.dtype == torch.int64

    def test_colour_img_column_shards_in_order_and_validation_as_test(self, tmp_path, pictures, write_parquet):
        x = pictures(4, colour=True)
        write_parquet(tmp_path / "train-00001-of-00002.parquet", x[2:], [1, 1], image="img")
        write_parquet(tmp_path / "train-00000-of-00002.parquet", x[:2], [0, 0], image="img")
        write_parquet(tmp_path / "validation.parquet", x[:1], [1], image="img")
        source = Parquet(path=str(tmp_path))
        assert torch.equal(source.load("train").images, torch.from_numpy(x).permute(0, 3, 1, 2))
        assert source.load("train").labels.tolist() == [0, 0, 1, 1]
        assert len(source.load("test")) == 1

    def test_without_names_the_training_labels_count_the_classes(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(3), [0, 2, 1])
        write_parquet(tmp_path / "test.parquet", pictures(2), [1, 0])
        assert Parquet(path=str(tmp_path)).load("test").classes == ("0", "1", "2")

    def test_the_label_column_can_be_chosen(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(3), [0, 0, 1], label="coarse_label", fine_label=[2, 1, 0])
        assert Parquet(path=str(tmp_path)).load("train").labels.tolist() == [2, 1, 0]
        assert Parquet(path=str(tmp_path), label="coarse_label").load("train").labels.tolist() == [0, 0, 1]

    def test_a_missing_folder(self, tmp_path):
        missing = tmp_path / "nowhere"
        assert refused(Parquet(path=str(missing))) == (
            f"{missing}: no such data folder; OVERPROOF_DATA may point at its parent"
        )

    def test_a_relative_path_is_looked_up_under_overproof_data(self, tmp_path, monkeypatch, pictures, write_parquet):
        write_parquet(tmp_path / "toy" / "train.parquet", pictures(2), [0, 1])
        monkeypatch.setenv("OVERPROOF_DATA", str(tmp_path))
        assert len(Parquet(path="toy").load("train")) == 2
        assert refused(Parquet(path="toi")) == (
            f"toi: no such data folder, neither here nor under OVERPROOF_DATA ({tmp_path})"
        )
        monkeypatch.chdir(tmp_path)
        (tmp_path / "toi").mkdir()
        assert find_folder("toi") == Path("toi")

    def test_an_empty_folder_and_an_absent_split(self, tmp_path, pictures, write_parquet):
        assert refused(Parquet(path=str(tmp_path))) == f"{tmp_path}: there are no .parquet files in this folder"
        write_parquet(tmp_path / "train.parquet", pictures(2), [0, 1])
        assert refused(Parquet(path=str(tmp_path)), "test") == f"{tmp_path}: no 'test' split; found train"

    def test_no_image_column(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(2), [0, 1], image="picture")
        assert refused(Parquet(path=str(tmp_path))) == (
            f"{tmp_path.name}: no image column ('image' or 'img'); found picture, label"
        )

    def test_a_misspelt_label(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(2), [0, 1])
        assert refused(Parquet(path=str(tmp_path), label="labell")) == (
            f"{tmp_path.name}: no label column 'labell' (did you mean 'label'?)"
        )

    @pytest.mark.parametrize("labels", [["0", "1"], [0, None]], ids=repr)
    def test_labels_that_are_not_integers(self, tmp_path, pictures, write_parquet, labels):
        write_parquet(tmp_path / "train.parquet", pictures(2), labels)
        assert refused(Parquet(path=str(tmp_path))).startswith(
            f"{tmp_path.name}: column 'label' must hold integers, one for every image; "
        )

    def test_a_label_beyond_the_named_classes(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(2), [0, 2], names=["cat", "dog"])
        assert refused(Parquet(path=str(tmp_path))) == (
            f"{tmp_path.name}: label 2 is outside 0..1 (2 classes are named)"
        )

    def test_images_that_are_no_images(self, tmp_path):
        parquet.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), tmp_path / "train.parquet")
        assert refused(Parquet(path=str(tmp_path))) == (
            f"{tmp_path.name}: column 'image' must hold images as struct<bytes, path>, or as bytes"
        )

    def test_an_undecodable_image_is_named(self, tmp_path, pictures, encode):
        cells = [{"bytes": encode(pictures(1)[0]), "path": "good.png"}, {"bytes": b"not a picture", "path": "bad.png"}]
        parquet.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
        sentence = refused(Parquet(path=str(tmp_path)))
        assert sentence.startswith(f"{tmp_path.name}: bad.png cannot be decoded (")

    def test_mixed_sizes(self, tmp_path, pictures, encode):
        cells = [{"bytes": encode(pictures(1, side=side)[0]), "path": None} for side in (6, 7)]
        parquet.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
        assert refused(Parquet(path=str(tmp_path))) == (
            f"{tmp_path.name}: images must have one size and one colour mode, found 6x6 and 7x7; "
            "form: {size: 32, channels: 3} among the keys of data makes them alike"
        )

    def test_mixed_grey_and_colour(self, tmp_path, pictures, encode):
        cells = [{"bytes": encode(pictures(1, colour=colour)[0]), "path": None} for colour in (False, True)]
        parquet.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
        assert "found 6x6 and 6x6x3; " in refused(Parquet(path=str(tmp_path)))
        alike = Parquet(path=str(tmp_path), form=Form(channels=3)).load("train").images
        assert torch.equal(alike[0], torch.from_numpy(pictures(1)).expand(3, 6, 6))
        assert torch.equal(alike[1], torch.from_numpy(pictures(1, colour=True)[0]).permute(2, 0, 1))

    def test_shards_that_would_crowd_the_memory_become_a_map_of_a_file(
        self, tmp_path, monkeypatch, pictures, write_parquet
    ):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        for part in (0, 1):
            x = pictures(3, colour=True, seed=part)
            write_parquet(tmp_path / "toy" / f"train-{part}.parquet", x, [0, 1, 0], names=["ant", "bee"])
        source = Parquet(path=str(tmp_path / "toy"))
        read = source.open("train")
        monkeypatch.setattr(tables, "memory", lambda: 0)
        mapped = source.open("train")
        assert list((tmp_path / "cache").rglob("*.arrow"))
        assert (mapped.classes, mapped.digest) == (read.classes, read.digest) == (("ant", "bee"), read.digest)
        assert torch.equal(mapped.decoded().images, read.decoded().images)

    def test_sixteen_bits_are_refused_not_clipped(self, tmp_path, encode):
        deep = np.full((6, 6), 40000, dtype=np.uint16)
        parquet.write_table(
            pa.table({"image": [{"bytes": encode(deep), "path": "deep.png"}], "label": [0]}), tmp_path / "train.parquet"
        )
        assert refused(Parquet(path=str(tmp_path))).startswith(
            f"{tmp_path.name}: deep.png cannot be decoded (mode I;16: only 8-bit images are read)"
        )

    def test_different_schemas_in_one_split(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train-0.parquet", pictures(1), [0])
        write_parquet(tmp_path / "train-1.parquet", pictures(1), [0], image="img")
        assert refused(Parquet(path=str(tmp_path))).startswith(f"{tmp_path}: not a readable parquet file (")

    @pytest.mark.parametrize(
        "metadata",
        [
            b"[1]",
            b"5",
            b"\xff",
            b"[" * 100_000,
            b"1" * 5000,
            b'{"info": [1]}',
            b'{"info": {"features": {"label": {"names": 5}}}}',
            b'{"info": {"features": {"label": {"names": "cat"}}}}',
            b'{"info": {"features": {"label": {"names": [1, 2]}}}}',
            b'{"info": {"features": {"label": {"names": ["\\ud800", "b"]}}}}',
            b'{"info": {"features": {"label": {"names": [' + b'"a",' * 200_000 + b'"b"]}}}}',
        ],
        ids=lambda value: str(value[:40]),
    )
    def test_metadata_of_another_shape_are_one_sentence(self, tmp_path, pictures, encode, metadata):
        cells = [{"bytes": encode(picture), "path": None} for picture in pictures(2)]
        table = pa.table({"image": cells, "label": [0, 1]}).replace_schema_metadata({b"huggingface": metadata})
        parquet.write_table(table, tmp_path / "train.parquet")
        assert refused(Parquet(path=str(tmp_path))).startswith(
            f"{tmp_path.name}: not readable as the hub's metadata of a table ("
        )

    @pytest.mark.parametrize("label", [10**9, 2**62])
    def test_a_label_is_not_as_many_class_names(self, tmp_path, pictures, write_parquet, label):
        write_parquet(tmp_path / "train.parquet", pictures(2), [0, label])
        assert refused(Parquet(path=str(tmp_path))) == (
            f"{tmp_path.name}: label {label} is too large; classes are numbered from 0, at most 100,000"
        )

    def test_rows_that_take_far_more_than_the_file_are_refused(self, tmp_path, monkeypatch):
        value = bytes(range(256)) * 400  # 100 kB, stored once
        cells = [{"bytes": value, "path": None}] * 3000
        parquet.write_table(pa.table({"image": cells, "label": [0] * 3000}), tmp_path / "train.parquet")
        monkeypatch.setattr(archives, "_ALWAYS", 2**20)
        size = (tmp_path / "train.parquet").stat().st_size
        assert size < 10**6
        assert refused(Parquet(path=str(tmp_path))).startswith(
            f"{tmp_path / 'train.parquet'}: its {size:,} bytes would unpack to "
        )

    def test_as_many_rows_are_read_at_once_as_stay_within_the_bound(
        self, tmp_path, monkeypatch, pictures, write_parquet
    ):
        x = pictures(50, side=20)
        write_parquet(tmp_path / "train.parquet", x, [0, 1] * 25)
        whole = Parquet(path=str(tmp_path)).load("train")
        monkeypatch.setattr(archives, "_ALWAYS", 0)
        monkeypatch.setattr(archives, "_TIMES", 3)
        parts = Parquet(path=str(tmp_path)).open("train")
        assert parts.cells.num_chunks > 10
        assert torch.equal(parts.decoded().images, whole.images)

    def test_a_table_of_a_stranger_reads_no_file_outside_of_its_folder(self, tmp_path, pictures, encode):
        (tmp_path / "secret.png").write_bytes(encode(pictures(1)[0]))
        (tmp_path / "toy").mkdir()
        (tmp_path / "toy" / "own.png").write_bytes(encode(pictures(1)[0]))
        for path, inside in (("toy/own.png", True), ("secret.png", False), ("toy/../secret.png", False)):
            cells = [{"bytes": None, "path": str(tmp_path / path)}]
            parquet.write_table(pa.table({"image": cells, "label": [0]}), tmp_path / "toy" / "train.parquet")
            source = Parquet(path=str(tmp_path / "toy"))
            if inside:
                assert len(source.load("train")) == 1
            else:
                assert "lies outside of" in refused(source)

    def test_what_is_no_file_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "train.parquet")
        assert refused(Parquet(path=str(tmp_path))) == f"{tmp_path / 'train.parquet'}: a pipe, not a file"

    def test_damage_anywhere_is_one_sentence(self, tmp_path, pictures, write_parquet):
        file = tmp_path / "train.parquet"
        write_parquet(file, pictures(3), [0, 1, 0])
        body = file.read_bytes()
        for cut in (0, 3, len(body) // 2, len(body) - 1):
            file.write_bytes(body[:cut])
            assert refused(Parquet(path=str(tmp_path))).startswith(f"{tmp_path}: not a readable parquet file (")
        draws = np.random.default_rng(0)
        for place in draws.integers(0, len(body), 60):
            altered = bytearray(body)
            altered[place] ^= int(draws.integers(1, 256))
            file.write_bytes(altered)
            try:  # a flip may hit a pixel or a name, which is no damage that can be seen
                Parquet(path=str(tmp_path)).load("train")
            except InputError as problem:
                assert "\n" not in str(problem)


class TestFolder:
    def write(self, root, pictures, split="train", names=("ant", "bee"), n=2):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, picture in enumerate(pictures(n, colour=True, seed=label)):
                Image.fromarray(picture).save(folder / f"{i}.png")

    def test_reads_what_was_written_in_name_order(self, tmp_path, pictures):
        self.write(tmp_path, pictures)
        self.write(tmp_path, pictures, "test", names=("ant",), n=1)
        (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
        found = Folder(path=str(tmp_path)).load("train")
        wanted = np.concatenate([pictures(2, colour=True, seed=label) for label in (0, 1)])
        assert torch.equal(found.images, torch.from_numpy(wanted).permute(0, 3, 1, 2))
        assert found.labels.tolist() == [0, 0, 1, 1]
        assert found.classes == ("ant", "bee")
        test = Folder(path=str(tmp_path)).load("test")
        assert (test.classes, test.labels.tolist()) == (("ant", "bee"), [0])

    def test_files_come_in_name_order_whatever_the_disk_says(self, tmp_path, pictures, monkeypatch):
        self.write(tmp_path, pictures, n=8)
        glob = Path.glob
        monkeypatch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=True))
        found = Folder(path=str(tmp_path)).load("train")
        wanted = np.concatenate([pictures(8, colour=True, seed=label) for label in (0, 1)])
        assert torch.equal(found.images, torch.from_numpy(wanted).permute(0, 3, 1, 2))

    def test_a_class_that_training_does_not_have(self, tmp_path, pictures):
        self.write(tmp_path, pictures)
        self.write(tmp_path, pictures, "val", names=("ant", "wasp"))
        assert refused(Folder(path=str(tmp_path)), "test") == (
            f"{tmp_path / 'val'}: class 'wasp' is not among the training folders"
        )

    def test_missing_folders(self, tmp_path):
        assert refused(Folder(path=str(tmp_path))) == (
            f"{tmp_path}: no 'train' split; found nothing; expected train/<class>/*.png and test/<class>/*.png"
        )
        (tmp_path / "train").mkdir()
        assert refused(Folder(path=str(tmp_path))) == (
            f"{tmp_path / 'train'}: expected one folder of images per class, found none"
        )
        (tmp_path / "train" / "ant").mkdir()
        assert refused(Folder(path=str(tmp_path))) == f"{tmp_path / 'train'}: there are no images"

    def test_an_undecodable_file_is_named(self, tmp_path, pictures):
        self.write(tmp_path, pictures)
        file = tmp_path / "train" / "bee" / "0.png"
        whole = file.read_bytes()
        for body in (b"", whole[: len(whole) // 2], whole.replace(b"IDAT", b"\xee-\xf1\xc0")):
            file.write_bytes(body)
            assert refused(Folder(path=str(tmp_path))).startswith(f"{tmp_path / 'train'}: {file} cannot be decoded (")


class TestStrangeFolders:
    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_an_image_that_is_no_file_is_not_waited_for(self, tmp_path, pictures, write_folder, kind):
        write_folder(tmp_path, pictures(4))
        place = tmp_path / "train" / "ant" / "zzz.png"
        if kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero")
        assert refused(Folder(path=str(tmp_path))).startswith(f"{tmp_path / 'train'}: {place}: a {kind}, not a file; ")

    @pytest.mark.parametrize("name", [b"\xff.png", b"\xff"])
    def test_a_name_that_is_no_text_is_one_sentence(self, tmp_path, pictures, write_folder, encode, name):
        write_folder(tmp_path, pictures(4))
        place = os.fsencode(tmp_path / "train") + (b"/ant/" if name.endswith(b".png") else b"/") + name
        if name.endswith(b".png"):
            Path(os.fsdecode(place)).write_bytes(encode(pictures(1)[0]))
        else:
            Path(os.fsdecode(place)).mkdir()
        assert refused(Folder(path=str(tmp_path))).endswith(": this name is not UTF-8 text; rename the file")

    def test_a_test_part_alone_is_one_sentence(self, tmp_path, pictures, write_folder):
        write_folder(tmp_path, pictures(4))
        (tmp_path / "train").rename(tmp_path / "test")
        assert refused(Folder(path=str(tmp_path)), "test") == (
            f"{tmp_path / 'train'}: expected one folder of images per class, found none"
        )


class TestNpz:
    def arrays(self, pictures, **changes):
        return {
            "x_train": pictures(4),
            "y_train": np.array([0, 1, 2, 1]),
            "x_test": pictures(2),
            "y_test": np.array([0, 1]),
        } | changes

    def write(self, folder, arrays):
        np.savez_compressed(folder / "toy.npz", **arrays)
        return Npz(path=str(folder / "toy.npz"))

    def test_reads_what_was_written(self, tmp_path, pictures):
        source = self.write(tmp_path, self.arrays(pictures))
        train, test = source.load("train"), source.load("test")
        assert torch.equal(train.images, torch.from_numpy(pictures(4))[:, None])
        assert train.labels.tolist() == [0, 1, 2, 1]
        assert test.classes == train.classes == ("0", "1", "2")
        assert train.name == "toy"

    def test_channels_last_and_first_and_floats(self, tmp_path, pictures):
        colour = pictures(4, colour=True)
        last = self.write(tmp_path, self.arrays(pictures, x_train=colour)).load("train")
        first = self.write(tmp_path, self.arrays(pictures, x_train=colour.transpose(0, 3, 1, 2))).load("train")
        assert torch.equal(last.images, first.images)
        floats = self.write(tmp_path, self.arrays(pictures, x_train=colour / 255)).load("train")  # float64
        assert floats.images.dtype == torch.float32
        torch.testing.assert_close(floats.images * 255, last.images.float())

    def test_under_overproof_data(self, tmp_path, pictures, monkeypatch):
        self.write(tmp_path, self.arrays(pictures))
        monkeypatch.setenv("OVERPROOF_DATA", str(tmp_path))
        assert len(Npz(path="toy.npz").load("train")) == 4
        assert refused(Npz(path="tot.npz")) == (
            f"tot.npz: no such file, neither here nor under OVERPROOF_DATA ({tmp_path})"
        )

    def test_a_link_is_followed(self, tmp_path, pictures):
        self.write(tmp_path, self.arrays(pictures))
        (tmp_path / "link.npz").symlink_to(tmp_path / "toy.npz")
        assert len(Npz(path=str(tmp_path / "link.npz")).load("train")) == 4

    def test_other_arrays_are_named(self, tmp_path, pictures):
        source = self.write(tmp_path, self.arrays(pictures, x_val=pictures(1), y_val=np.array([0])))
        assert source.load("train").notes == ("toy.npz: not read: x_val, y_val",)

    def test_a_missing_array(self, tmp_path, pictures):
        arrays = self.arrays(pictures)
        del arrays["x_test"]
        assert refused(self.write(tmp_path, arrays), "test") == (
            f"{tmp_path / 'toy.npz'}: array 'x_test' is missing; it holds x_train, y_train, y_test"
        )

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (
                {"y_train": np.array(list("abca"))},
                "{file}: labels must be integers, y_train is <U1; number the classes",
            ),
            ({"y_train": np.zeros(3, dtype=int)}, "toy: expected images [N, C, H, W] and as many labels, got "),
            ({"y_train": np.array([0, -1, 1, 1])}, "toy: label -1 is outside 0..1 (2 classes are named)"),
            (
                {"x_train": np.zeros((4, 6), np.uint8)},
                "{file}: expected images [N, H, W], [N, H, W, C] or [N, C, H, W]",
            ),
            (
                {"x_train": np.zeros((4, 6, 6), complex)},
                "{file}: images must be uint8 or floats in [0, 1], x_train is comp",
            ),
            (
                {"x_train": np.full((4, 6, 6), 255, np.float32)},
                "{file}: float images must lie in [0, 1], these span [255, 255]; divide by 255",
            ),
            (
                {"x_train": np.linspace(-2, 2, 144, dtype=np.float32).reshape(4, 6, 6)},
                "{file}: float images must lie in [0, 1], these span [-2, 2]; undo the normalisation",
            ),
            ({"x_train": np.full((4, 6, 6), np.nan, np.float32)}, "{file}: float images must lie in [0, 1]"),
            ({"x_train": np.zeros((0, 6, 6), np.uint8), "y_train": np.zeros(0, int)}, "toy: there are no images"),
        ],
        ids=lambda value: "" if isinstance(value, dict) else value[:30],
    )
    def test_bad_arrays(self, tmp_path, pictures, changes, sentence):
        source = self.write(tmp_path, self.arrays(pictures, **changes))
        assert refused(source).startswith(sentence.format(file=tmp_path / "toy.npz"))

    def test_a_test_label_that_training_does_not_have(self, tmp_path, pictures):
        source = self.write(tmp_path, self.arrays(pictures, y_test=np.array([0, 3])))
        assert refused(source, "test") == "toy: label 3 is outside 0..2 (3 classes are named)"

    def test_pickles_are_refused_and_not_run(self, tmp_path, pictures):
        fired = tmp_path / "fired"

        class Bomb:
            def __reduce__(self):
                return Path.touch, (fired,)

        source = self.write(tmp_path, self.arrays(pictures, x_train=np.array([Bomb()] * 4)))
        assert refused(source).startswith(
            f"{tmp_path / 'toy.npz'}: not readable as a .npz archive (Object arrays cannot"
        )
        assert not fired.exists()

    def test_damage_anywhere_is_one_sentence(self, tmp_path, pictures):
        source = self.write(tmp_path, self.arrays(pictures))
        file = tmp_path / "toy.npz"
        body = file.read_bytes()
        for cut in (0, 1, 10, len(body) // 2, len(body) - 3):
            file.write_bytes(body[:cut])
            assert refused(source) in (
                f"{file}: not readable as a .npz archive (no zip archive)",
                f"{file}: damaged or cut off; fetch it again",
            )
        draws = np.random.default_rng(0)
        refusals = 0
        for place in draws.integers(0, len(body), 100):
            altered = bytearray(body)
            altered[place] ^= 0xFF
            file.write_bytes(altered)
            try:
                source.load("train")
            except InputError as problem:
                refusals += 1
                assert "\n" not in str(problem)
        assert refusals > 20

    def test_a_bare_array_is_no_archive(self, tmp_path):
        with (tmp_path / "toy.npz").open("wb") as file:
            np.save(file, np.zeros(3))
        assert refused(Npz(path=str(tmp_path / "toy.npz"))) == (
            f"{tmp_path / 'toy.npz'}: not readable as a .npz archive (no zip archive)"
        )

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"y_train": np.array([0, 1, 2, 2**62])}, "label 4611686018427387904 is too large"),
            ({"y_train": np.array([0, 1, 2, 10**9])}, "label 1000000000 is too large"),
            ({"y_train": np.array([0, 1, 2, 2**64 - 1], dtype=np.uint64)}, "label 18446744073709551615 is too large"),
            ({"y_train": np.array(3)}, "as many labels"),
            ({"y_train": np.zeros((4, 2), int)}, "as many labels"),
            ({"y_train": np.zeros(0, np.uint8)}, "as many labels"),
            ({"y_train": np.zeros((0, 2**60), np.uint8)}, ""),  # numpy has it, and its int64 form is too large
            ({"x_train": np.array(3, np.uint8)}, "expected images [N, H, W]"),
            ({"x_train": np.zeros((4, 6, 0), np.uint8)}, "images of [1, 6, 0] have no pixels"),
            ({"x_train": np.zeros(4, dtype=[("a", "u1")])}, "expected images [N, H, W]"),
        ],
        ids=["2**62", "10**9", "2**64", "0-d", "2-d", "none", "too-large", "0-d-images", "no-pixels", "records"],
    )
    def test_strange_numbers_are_one_sentence(self, tmp_path, pictures, changes, words):
        assert words in refused(self.write(tmp_path, self.arrays(pictures, **changes)))

    def test_an_archive_that_inflates_is_refused_before_it_does(self, tmp_path, pictures, monkeypatch):
        source = self.write(tmp_path, self.arrays(pictures, x_train=np.zeros((4, 1000, 1000), np.uint8)))
        monkeypatch.setattr(archives, "_ALWAYS", 0)
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
        assert "bytes would unpack to 4," in refused(source)

    def test_a_header_that_claims_a_huge_array_is_one_sentence(self, tmp_path, pictures):
        source = self.write(tmp_path, self.arrays(pictures))
        with zipfile.ZipFile(tmp_path / "toy.npz") as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "toy.npz", "w") as archive:
            for name, body in parts.items():
                archive.writestr(name, body.replace(b"(4, 6, 6), }     ", b"(4, 6, 6000000),}"))
        assert refused(source).startswith(f"{tmp_path / 'toy.npz'}: ")

    @pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
    def test_what_is_no_file_is_not_waited_for(self, tmp_path, kind):
        place = tmp_path / "x.npz"
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "device":
            place.symlink_to("/dev/zero")
        else:
            place.mkdir()
        assert kind in refused(Npz(path=str(place)))

    @pytest.mark.parametrize("path", ["a" * 300, "a\0b", "~nobody-of-this-name/x"], ids=["long", "zero", "home"])
    def test_a_path_that_no_system_takes_is_one_sentence(self, path):
        assert refused(Npz(path=path))
        assert refused(Parquet(path=path))
        assert refused(Folder(path=path))


class TestHub:
    def test_overproof_data_comes_first(self, tmp_path, monkeypatch, pictures, write_parquet):
        write_parquet(tmp_path / "toy" / "train.parquet", pictures(3), [0, 1, 1], coarse_label=[1, 0, 0])
        monkeypatch.setenv("OVERPROOF_DATA", str(tmp_path))
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
        assert Hub(id="someone/toy").load("train").labels.tolist() == [0, 1, 1]
        assert Hub(id="someone/toy", label="coarse_label").load("train").labels.tolist() == [1, 0, 0]

    def test_reads_a_data_set_of_the_hub(self, monkeypatch, pictures, encode):
        x = pictures(3, colour=True)
        features = datasets.Features(
            img=datasets.Image(), fine_label=datasets.ClassLabel(names=["a", "b"]), other=datasets.Value("string")
        )
        cells = [{"bytes": encode(picture), "path": None} for picture in x]
        data = datasets.Dataset.from_dict({"img": cells, "fine_label": [1, 0, 1], "other": list("xyz")}, features)
        asked = []
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda _: ["train", "validation"])
        monkeypatch.setattr(datasets, "load_dataset", lambda id, split: asked.append((id, split)) or data)
        found = Hub(id="someone/toy").load("test")
        assert asked == [("someone/toy", "validation")]
        assert torch.equal(found.images, torch.from_numpy(x).permute(0, 3, 1, 2))
        assert found.labels.tolist() == [1, 0, 1]
        assert found.classes == ("a", "b")
        assert found.name == "someone/toy"

    @pytest.mark.parametrize("labels", [[0, 1, 1], [0.0, 1.0, 0.0], [True, False, True], ["a", "b", "a"], [0, None, 1]])
    def test_a_table_of_the_hub_is_read_as_one_of_a_folder(
        self, tmp_path, monkeypatch, pictures, write_parquet, labels
    ):
        write_parquet(tmp_path / "toy" / "train.parquet", pictures(3), labels, coarse_label=[1, 0, 0])
        table = parquet.read_table(tmp_path / "toy" / "train.parquet")
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "extra"])
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset(table))
        results = []
        for source in (Parquet(path=str(tmp_path / "toy")), Hub(id="someone/toy")):
            try:
                found = source.load("train")
                notes = [note.partition(": ")[2] for note in found.notes]
                results.append([found.labels.tolist(), found.images.tolist(), found.classes, notes])
            except InputError as problem:
                results.append(str(problem).partition(": ")[2])
        if isinstance(results[0], list):
            results[0][3].insert(0, "extra is not read")
        assert results[0] == results[1]

    def test_a_table_of_another_shape_is_one_sentence(self, monkeypatch):
        data = datasets.Dataset.from_dict({"img": [1, 2], "label": [0, 1]})
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda _: ["train"])
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
        assert refused(Hub(id="someone/toy")) == (
            "someone/toy: column 'img' must hold images as struct<bytes, path>, or as bytes"
        )

    def test_an_unreachable_hub(self, monkeypatch):
        def unreachable(_):
            raise ConnectionError("a page\nof text")

        monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
        assert refused(Hub(id="someone/toy")) == (
            "cannot read data set 'someone/toy' from the hub (ConnectionError); check the name and the connection, "
            "or point OVERPROOF_DATA at a folder that holds 'toy'"
        )

    def test_an_absent_split_names_those_there_are(self, monkeypatch):
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda _: ["train", "extra"])
        assert refused(Hub(id="someone/toy"), "test") == "someone/toy: no 'test' split; found train, extra"


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real images are not here")
def test_real_mnist_and_cifar_are_read(monkeypatch):
    monkeypatch.setenv("OVERPROOF_DATA", str(SHARED))
    mnist = Hub(id="ylecun/mnist").load("test")
    assert (mnist.signature.channels, mnist.signature.height, len(mnist), len(mnist.classes)) == (1, 28, 10000, 10)
    assert torch.bincount(mnist.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    cifar = next(SHARED.glob("cifar10-jpeg/test-*.parquet"))
    names = json.loads(parquet.read_schema(cifar).metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert names[0] == "airplane"
    assert parquet.read_table(cifar, columns=["label"])["label"].to_pylist().count(0) == 1000
