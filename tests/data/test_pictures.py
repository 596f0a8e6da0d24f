"""Image files as people have them: what each becomes, and what is said of it."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from overproof.data.pictures import (
    Form,
    decoded_image,
    holds_several,
    opened_image,
    said_of,
    shape_of,
    suffixes,
    why_damaged,
)

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP.T.reshape(6, 8)], axis=-1)


def body(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(data, form=Form()):  # noqa: B008
    with opened_image(io.BytesIO(data)) as image:
        shape = shape_of(image, form)
    with opened_image(io.BytesIO(data)) as image:
        pixels, remarks = decoded_image(image, form)
        assert pixels.shape == shape
        assert pixels.dtype == np.uint8
        return pixels, (*remarks, "several") if holds_several(image) else remarks


def turned(angle, form="PNG"):
    exif = Image.Exif()
    exif[0x0112] = angle
    return body(Image.fromarray(RAMP), form, exif=exif, **({"quality": 100} if form == "JPEG" else {}))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "TGA"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_plain_images_are_what_was_written(form, colour):
    pixels, remarks = read(body(Image.fromarray(COLOUR if colour else RAMP), form))
    assert np.array_equal(pixels, COLOUR.transpose(2, 0, 1) if colour else RAMP[None])
    assert remarks == ()


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_one_bit_is_grey_black_and_white(channels):
    pixels, remarks = read(body(Image.fromarray(RAMP > 99)), Form(channels=channels))
    assert pixels.shape == (channels or 1, 6, 8)
    assert np.array_equal(pixels[0], np.where(RAMP > 99, 255, 0))
    assert remarks == ()


def test_a_palette_is_the_colours_it_stands_for():
    image = Image.fromarray((RAMP // 40).astype(np.uint8)).convert("P")
    image.putpalette([value for index in range(256) for value in (index * 9 % 256, 255 - index, index)])
    wanted = np.stack([RAMP // 40 * 9, 255 - RAMP // 40, RAMP // 40], axis=-1)
    assert np.array_equal(read(body(image))[0], wanted.transpose(2, 0, 1))
    shrunk = read(body(image), Form(size=3))[0]  # means of colours, not a colour of every second index
    assert np.array_equal(shrunk, read(body(Image.fromarray(wanted.astype(np.uint8))), Form(size=3))[0])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_left_out_and_said_where_it_hides_something(mode):
    grey = mode == "LA"
    image = Image.fromarray(RAMP if grey else COLOUR).convert(mode)
    wanted = RAMP[None] if grey else COLOUR.transpose(2, 0, 1)
    opaque, remarks = read(body(image))
    assert (np.array_equal(opaque, wanted), remarks) == (True, ())
    image.putalpha(Image.fromarray(np.where(RAMP > 99, 255, 0).astype(np.uint8)))
    found, remarks = read(body(image))
    assert (np.array_equal(found, wanted), remarks) == (True, ("alpha",))


def test_inks_are_converted_and_said():
    _, remarks = read(body(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"))
    assert remarks == ("inks",)
    pixels, _ = read(body(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"))
    assert pixels[0].min() > 200
    assert pixels[1:].max() < 50  # red


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_read_and_it_is_said(form):
    first, second = Image.new("RGB", (8, 6), (250, 0, 0)), Image.new("RGB", (8, 6), (0, 250, 0))
    pixels, remarks = read(body(first, form, save_all=True, append_images=[second]))
    assert remarks == ("several",)
    assert pixels[0].min() > 200
    assert pixels[1].max() < 50


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("angle", range(1, 9))
def test_an_exif_orientation_is_applied_and_said(form, angle):
    turns = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: np.rot90(RAMP, -1),
        7: RAMP[::-1, ::-1].T,
        8: np.rot90(RAMP),
    }
    pixels, remarks = read(turned(angle, form))
    assert np.array_equal(pixels[0], turns[angle])
    assert remarks == (() if angle == 1 else ("turned",))


def test_the_orientation_of_a_photograph():
    found, remarks = read(turned(6, "JPEG"))
    assert found.shape == (1, 8, 6)
    assert np.abs(found[0].astype(int) - np.rot90(RAMP, -1)).max() < 12
    assert remarks == ("turned",)
    assert read(turned(6, "JPEG"), Form(size=4))[0].shape == (1, 4, 4)


def deep_png(colour):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    rows = (b"\0" + b"\x12\x34" * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * 4) * 4
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    "data",
    [
        *(deep_png(colour) for colour in (0, 2, 4, 6)),
        b"P5 4 4 65535\n" + bytes(32),
        b"P6 4 4 65535\n" + bytes(96),
        body(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF"),
        body(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    ],
    ids=["grey", "colour", "grey-alpha", "colour-alpha", "pgm", "ppm", "tiff", "float"],
)
def test_more_than_8_bits_are_refused_and_not_cut(data):
    with pytest.raises(ValueError, match="only 8-bit images are read"):
        opened_image(io.BytesIO(data))


def test_16_bits_of_a_whole_pixel_are_8_of_a_channel_or_fewer():
    head = (
        b"BM"
        + struct.pack("<IHHI", 54 + 32, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, 32, 0, 0, 0, 0)
    )
    assert read(head + b"\xff\x7f" * 16)[0].min() == 255


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_truncated_image_is_damaged(form):
    data = body(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), form)
    with pytest.raises(Exception, match=r"\w") as caught:
        read(data[: len(data) // 2])
    assert "0x" not in why_damaged(caught.value)


def test_a_sentence_for_each_remark():
    assert said_of(Counter(alpha=1, several=1200), "set") == (
        "set: 1 image has transparent pixels: the transparency is left out, colours are read as stored",
        "set: 1,200 images hold several pictures: the first of each is read",
    )
    assert said_of(Counter(), "set") == ()


def test_suffixes_are_those_of_pictures():
    assert {".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".bmp"} <= suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ""} & suffixes()
