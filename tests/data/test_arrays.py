"""Arrays as people have them: what is plain is read, what could mean two things is refused with a way out."""

import numpy as np
import pytest
import torch

from overproof.data.arrays import images_of, labels_of
from overproof.errors import InputError

Y = [0, 2, 1, 2]
KINDS = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", ">i4", ">u2"]


def refused(work, *args):
    with pytest.raises(InputError) as caught:
        work(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestLabels:
    @pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=["N", "N1"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_integers_of_every_width(self, kind, shape):
        found, notes = labels_of(np.array(Y, dtype=kind).reshape(shape), "y", "f")
        assert (found.dtype, found.tolist(), notes) == (np.int64, Y, ())
        torch.from_numpy(found)[0] = 1  # it can be written to

    @pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
    def test_floats_that_are_whole_numbers_are_read_and_said(self, kind):
        found, (note,) = labels_of(np.array(Y, dtype=kind), "y", "f")
        assert found.tolist() == Y
        assert "hold whole numbers: they are read as integers" in note

    def test_booleans_are_0_and_1(self):
        assert labels_of(np.array([True, False]), "y", "f")[0].tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("y", "said"),
        [
            (np.eye(3, dtype=int)[Y], "f: y holds one-hot rows [4, 3]; save y.argmax(axis=1) instead"),
            (np.eye(3, dtype="float32")[Y], "f: y holds one-hot rows [4, 3]; save"),
            (np.eye(3, dtype=bool)[Y], "f: y holds one-hot rows [4, 3]; save"),
            (np.ones((4, 3), int), "f: labels must be [N] or [N, 1], y is [4, 3]"),
            (np.array(3), "f: labels must be [N] or [N, 1], y is []"),
            (np.array([0, 0.5]), "f: labels must be whole numbers from 0, y holds 0.5"),
            (np.array([0, np.nan]), "f: labels must be whole numbers from 0, y holds nan"),
            (np.array([0, np.inf]), "f: labels must be whole numbers from 0, y holds inf"),
            (np.array([0, 1e30]), "f: label 1000000000000000019884624838656 is too large"),
            (np.array([0, 2**64 - 1], dtype=np.uint64), "f: label 18446744073709551615 is too large"),
            (np.array(["a", "b"]), "f: labels must be integers, y is <U1; number the classes from 0 (np.unique("),
            (np.array([b"a", b"b"]), "f: labels must be integers, y is |S1; number the classes from 0"),
            (np.array([0, 1j]), "f: labels must be integers, y is complex128"),
        ],
        ids=lambda value: "" if isinstance(value, str) else f"{value.dtype}{list(value.shape)}",
    )
    def test_everything_else_is_refused(self, y, said):
        assert refused(labels_of, y, "y", "f").startswith(said)


class TestLayouts:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_channels_in_second_place_and_at_the_end(self, channels):
        first = np.random.default_rng(0).integers(0, 256, (2, channels, 6, 5), dtype=np.uint8)
        wanted = torch.from_numpy(first)
        assert torch.equal(images_of(first, "x", "f")[0], wanted)
        assert torch.equal(images_of(first.transpose(0, 2, 3, 1), "x", "f")[0], wanted)
        if channels == 1:
            assert torch.equal(images_of(first[:, 0], "x", "f")[0], wanted)

    def test_more_bands_in_second_place(self):
        assert images_of(np.full((2, 5, 8, 9), 200, np.uint8), "x", "f")[0].shape == (2, 5, 8, 9)

    @pytest.mark.parametrize(
        ("shape", "said"),
        [
            ((2, 3, 8, 3), "f: images [2, 3, 8, 3] may be [N, C, H, W] or [N, H, W, C]"),
            ((2, 1, 8, 1), "f: images [2, 1, 8, 1] may be"),
            (
                (2, 8, 8, 4),
                "f: images [2, 8, 8, 4] have 1 or 3 channels neither in second place nor at the end; drop the",
            ),
            ((2, 8, 8, 5), "f: images [2, 8, 8, 5] have 1 or 3 channels neither in second place nor at the end; trans"),
            ((2, 64), "f: expected images [N, H, W], [N, H, W, C] or [N, C, H, W], got [2, 64]"),
            ((2, 1, 1, 8, 8), "f: expected images"),
            ((), "f: expected images"),
        ],
        ids=str,
    )
    def test_others_are_refused(self, shape, said):
        assert refused(images_of, np.full(shape, 200, np.uint8), "x", "f").startswith(said)


class TestPixels:
    X = np.arange(2 * 4 * 5).reshape(2, 4, 5) * 6  # 0..234

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("uint8", "int8")])
    def test_integers_of_every_width_that_span_8_bits_are_read_and_said(self, kind):
        found, (note,) = images_of(self.X.astype(kind), "x", "f")
        assert found.dtype == torch.uint8
        assert found.flatten().tolist() == self.X.flatten().tolist()
        assert note.endswith("and spans 0..255: it is read as 8-bit pixels")

    @pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
    def test_floats_in_0_to_1(self, kind):
        x = (self.X / 255).astype(kind)
        found, notes = images_of(x, "x", "f")
        assert (found.dtype, notes) == (torch.float32, ())
        assert found.flatten().tolist() == x.astype("float32").flatten().tolist()

    def test_booleans_are_black_and_white_and_said(self):
        found, (note,) = images_of(self.X > 99, "x", "f")
        assert found.unique().tolist() == [0, 255]
        assert note == "x is bool: False is read as black and True as white"

    @pytest.mark.parametrize(
        ("x", "said"),
        [
            (X.astype("uint16") * 257, "x is uint16 and spans [0, 60138]; divide them by their largest possible value"),
            (X.astype("int16") - 128, "x is int16 and spans [-128, 106]; undo the normalisation or the shift"),
            (X // 15, "x is int64 and its largest value is 15, which leaves open what is white; scale to 0..255"),
            ((X > 99).astype("uint8"), "x is uint8 and its largest value is 1, which leaves open what is white"),
            ((X > 99).astype("int64"), "x is int64 and its largest value is 1"),
            (X.astype("float32"), "float images must lie in [0, 1], these span [0, 234]; divide by 255"),
            (X / 15, "float images must lie in [0, 1], these span [0, 15.6]; divide by the value that is white (15.6"),
            (X / 117 - 1, "float images must lie in [0, 1], these span [-1, 1]; undo the normalisation"),
            (X / 255 / 255, "the brightest pixel of x is 0.0036; it was divided by 255 twice"),
            (np.where(X == 6, np.nan, X / 255), "x holds 1 value not finite"),
            (np.where(X == 6, np.inf, X / 255), "x holds 1 value not finite"),
            (X * 1j, "images must be uint8 or floats in [0, 1], x is complex128"),
            (X.astype("U3"), "images must be uint8 or floats in [0, 1], x is <U3"),
        ],
        ids=lambda value: value[:30] if isinstance(value, str) else "",
    )
    def test_what_could_mean_two_things_is_refused(self, x, said):
        assert said in refused(images_of, x, "x", "f")

    def test_dark_images_are_read_where_the_other_part_says_what_is_white(self):
        dark, bright = self.X // 60, self.X
        assert images_of(dark, "x", "f", lambda: bright)[0].max() == 3
        assert images_of((dark > 2).astype("uint8"), "x", "f", lambda: bright.astype("uint8"))[0].max() == 1
        assert "leaves open what is white" in refused(images_of, dark, "x", "f", lambda: dark)
