import struct
import subprocess
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from overproof.data import encoded as encoded_module
from overproof.data import pictures as pictures_module
from overproof.data.encoded import EncodedSet, Form
from overproof.data.images import hold_out
from overproof.data.sources import Folder, Parquet
from overproof.errors import InputError
from overproof.signature import Signature

CELL = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def encoded(encode):
    """Return a function: a set of pictures as bytes in a table, labels 0 and 1 in turn."""

    def make(pictures, codec="PNG", **options):
        cells = pa.chunked_array([[{"bytes": encode(picture, codec), "path": None}] for picture in pictures], CELL)
        labels = torch.arange(len(pictures)) % 2
        return EncodedSet("made", "made", cells, torch.arange(len(pictures)), labels, ("a", "b"), **options)

    return make


def refused(work):
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestReading:
    @pytest.mark.parametrize("colour", [False, True])
    def test_an_image_is_what_was_written(self, encoded, pictures, colour):
        x = pictures(5, colour=colour)
        made = encoded(x)
        wanted = torch.from_numpy(x).permute(0, 3, 1, 2) if colour else torch.from_numpy(x)[:, None]
        assert made.signature == Signature(channels=3 if colour else 1, height=6, width=6, classes=2)
        assert torch.equal(torch.stack([made.read(index) for index in range(5)]), wanted)
        whole = made.decoded()
        assert torch.equal(whole.images, wanted)
        assert (whole.name, whole.classes, whole.labels.tolist()) == ("made", ("a", "b"), [0, 1, 0, 1, 0])

    def test_more_images_than_a_thread_takes_at_once_keep_their_places(self, encoded):
        x = np.arange(600, dtype=np.uint16).view(np.uint8).reshape(600, 1, 2)
        assert torch.equal(encoded(x).decoded().images, torch.from_numpy(x)[:, None])

    def test_a_part_is_the_part_of_the_whole_in_the_order_asked(self, encoded, pictures):
        made = encoded(pictures(6))
        part = made.at(torch.tensor([5, 0, 3])).at(torch.tensor([2, 0]))
        assert torch.equal(part.decoded().images, made.decoded().images[[3, 5]])
        assert part.labels.tolist() == [1, 1]
        with pytest.raises(InputError, match=r"^made: there are no images$"):
            made.at(torch.arange(0))

    def test_it_is_held_out_as_the_same_images_in_memory_are(self, encoded, pictures):
        made = encoded(pictures(20))
        for mine, theirs in zip(hold_out(made, 0.3, 1), hold_out(made.decoded(), 0.3, 1), strict=True):
            assert torch.equal(mine.decoded().images, theirs.images)


class TestForm:
    def test_channels_are_what_pillow_makes_of_them(self, encoded, pictures):
        colour, grey = pictures(2, colour=True), pictures(2)
        made = encoded([*colour, *grey], form=Form(channels=1)).decoded().images
        assert torch.equal(made[2:], torch.from_numpy(grey)[:, None])
        weights = torch.tensor([0.299, 0.587, 0.114])
        luma = (torch.from_numpy(colour).float() * weights).sum(dim=-1)
        assert (made[:2, 0].float() - luma).abs().max() <= 1
        assert torch.equal(encoded([*colour, *grey], form=Form(channels=3)).decoded().images[2:, 1:2], made[2:])

    def test_a_size_scales_the_shorter_side_and_keeps_the_middle(self, encoded):
        wide = np.zeros((8, 24), dtype=np.uint8)
        wide[:, 8:16] = 200  # the middle square alone remains
        made = encoded([wide, wide.T, np.full((4, 4), 200, dtype=np.uint8)], form=Form(size=4))
        assert made.signature == Signature(channels=1, height=4, width=4, classes=2)
        made.check()
        inner = made.decoded().images[:, :, 1:3, 1:3]
        assert torch.equal(inner, torch.full((3, 1, 2, 2), 200, dtype=torch.uint8))

    def test_a_size_that_is_there_already_changes_nothing(self, encoded, pictures):
        x = pictures(3, colour=True)
        assert torch.equal(encoded(x, form=Form(size=6)).decoded().images, encoded(x).decoded().images)

    def test_a_large_jpeg_is_near_what_a_full_decode_gives(self, encoded):
        ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
        made = encoded([ramp], "JPEG", form=Form(size=8)).decoded().images[0, 0].float()
        means = torch.from_numpy(ramp).float().view(8, 8, 8, 8).mean(dim=(1, 3))
        assert (made - means).abs().max() < 4

    def test_a_negative_size_is_refused(self):
        with pytest.raises(ValueError, match=r"^size is a number of pixels \(0: as stored\), got -1$"):
            Form(size=-1)


class TestChecks:
    def test_a_header_that_is_none_or_another_size_is_found(self, encoded, pictures, encode):
        good = pictures(3)
        made = encoded(good)
        made.check()
        other = encoded([*good, pictures(1, side=7)[0]])
        assert refused(other.check) == (
            "made: images must have one size and one colour mode, found 6x6 and 7x7; form: {size: 32, channels: 3} "
            "among the keys of data makes them alike"
        )
        cells = pa.chunked_array(
            [[{"bytes": encode(good[0]), "path": "0.png"}, {"bytes": b"no", "path": "1.png"}]], CELL
        )
        broken = EncodedSet("made", "made", cells, torch.arange(2), torch.arange(2), ("a", "b"))
        assert refused(broken.check).startswith("made: 1.png cannot be decoded (")

    def test_damaged_pixels_are_found_by_a_check(self, tmp_path, pictures, write_folder):
        found = Folder(path=str(write_folder(tmp_path, pictures(4, side=64, colour=True), "JPEG"))).open("train")
        file = tmp_path / "train" / "bee" / "003.jpeg"
        file.write_bytes(file.read_bytes()[:-600])
        for work in (found.check, found.decoded):
            assert refused(work).startswith(f"{tmp_path / 'train'}: {file} cannot be decoded (")

    @pytest.mark.parametrize("change", ["rewritten", "longer", "gone"])
    def test_a_file_that_changes_later_is_named(self, tmp_path, pictures, write_folder, change):
        found = Folder(path=str(write_folder(tmp_path, pictures(4)))).open("train")
        found.check()
        for index in range(4):
            found.check_unchanged(index)
        file = tmp_path / "train" / "ant" / "002.png"
        body = file.read_bytes()
        file.unlink()
        if change != "gone":
            file.write_bytes(body + b"x" * (change == "longer"))
        assert refused(lambda: found.check_unchanged(1)) == (
            f"{tmp_path / 'train'}: {file} has changed since the run began to read the set"
        )
        found.check_unchanged(0)

    def test_a_label_that_is_no_class(self, encoded, pictures):
        made = encoded(pictures(2))
        with pytest.raises(InputError, match=r"^made: label 1 is outside 0\.\.0 \(1 classes are named\)$"):
            EncodedSet("made", "made", made.cells, made.rows, made.labels, ("a",))


class TestDigest:
    def test_says_whether_the_set_is_the_same(self, tmp_path, pictures, write_folder):
        source = Folder(path=str(write_folder(tmp_path, pictures(6))))
        first = source.open("train")
        assert source.open("train").digest == first.digest
        assert len({first.digest, first.at(torch.arange(5)).digest, first.at(torch.tensor([1, 0])).digest}) == 3
        (tmp_path / "train" / "ant" / "004.png").write_bytes(
            (tmp_path / "train" / "ant" / "004.png").read_bytes() + b"x"
        )
        assert source.open("train").digest != first.digest

    def test_a_table_is_told_by_its_lengths_of_the_rows_it_has(self, tmp_path, pictures, write_parquet):
        write_parquet(tmp_path / "train.parquet", pictures(4, side=9), [0, 1, 0, 1])
        found = Parquet(path=str(tmp_path)).open("train")
        lengths = [len(cell["bytes"]) for cell in found.cells.to_pylist()]
        part = found.at(torch.tensor([3, 1]))
        part.check()
        assert [int(part._marks[i, 0]) for i in (0, 1)] == [lengths[3], lengths[1]]
        part.check_unchanged(0)


class TestStrangeImages:
    def one(self, body):
        cells = pa.chunked_array([[{"bytes": body, "path": "x.png"}]], CELL)
        return EncodedSet("made", "made", cells, torch.arange(1), torch.zeros(1, dtype=torch.int64), ("a",))

    def test_a_small_file_that_claims_a_huge_image_is_refused_before_it_is_decoded(self, encode):
        body = bytearray(encode(np.zeros((6, 6), np.uint8)))
        body[16:24] = struct.pack(">2L", 50_000, 50_000)
        body[29:33] = struct.pack(">L", zlib.crc32(body[12:29]))
        assert refused(self.one(bytes(body)).check).startswith(
            "made: x.png cannot be decoded (DecompressionBombError: "
        )

    def test_more_pixels_than_any_picture_has_are_refused(self, encode, monkeypatch):
        monkeypatch.setattr(pictures_module, "_MOST_PIXELS", 35)
        assert refused(self.one(encode(np.zeros((6, 6), np.uint8))).check).startswith(
            "made: x.png cannot be decoded (6x6 pixels are more than 35)"
        )

    def test_no_program_is_started_for_an_image(self, encode, monkeypatch):
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
        monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
        body = encode(np.zeros((6, 6, 3), np.uint8), "EPS")
        assert refused(self.one(body).decoded).startswith(
            "made: x.png cannot be decoded (UnidentifiedImageError: cannot identify image file)"
        )

    def test_a_set_that_memory_has_no_place_for_is_one_sentence(self, encoded, pictures, monkeypatch):
        monkeypatch.setattr(encoded_module, "memory", lambda: 100)
        assert refused(encoded(pictures(4)).decoded) == ("made: its images take 144 bytes of memory, and there are 100")

    @pytest.mark.parametrize("cell", [{"bytes": None, "path": None}, {"bytes": None, "path": "a\0b"}, {"bytes": b""}])
    def test_a_cell_without_an_image_is_one_sentence(self, cell):
        cells = pa.chunked_array([[{"path": None, **cell}]], CELL)
        made = EncodedSet("made", "made", cells, torch.arange(1), torch.zeros(1, dtype=torch.int64), ("a",))
        assert "cannot be decoded (" in refused(made.check)
        assert made._marks.tolist() == [[-1, -1]]

    def test_a_name_in_a_table_is_shown_as_one_line(self):
        cells = pa.chunked_array([[{"bytes": b"no", "path": "a\nb\x1b[31m" + "x" * 10_000}]], CELL)
        made = EncodedSet("made", "made", cells, torch.arange(1), torch.zeros(1, dtype=torch.int64), ("a",))
        told = refused(made.check)
        assert told.startswith("made: a b\\x1b[31mxxx")
        assert len(told) < 500

    def test_a_path_that_is_no_text_is_one_sentence(self, encode):
        parts = [pa.array([encode(np.zeros((6, 6), np.uint8))]), pa.array([b"\xff"]).view(pa.string())]
        cells = pa.chunked_array([pa.StructArray.from_arrays(parts, fields=list(CELL))])
        made = EncodedSet("made", "made", cells, torch.arange(1), torch.zeros(1, dtype=torch.int64), ("a",))
        assert refused(made.check).startswith("made: not readable as a table of images (")
