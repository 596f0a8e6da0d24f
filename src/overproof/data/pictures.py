"""One image file: what its header says, and its pixels; what has to be said of how it is read."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from overproof.data.notes import counted
from overproof.reading import reason

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]
_BILINEAR = 2  # Pillow's number for it, which the type checker asks for
_MOST_PIXELS = 2**26  # of one image; a small file can claim any number, and decoding it takes their memory
_FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "PCX", "ICO"),
    *("SGI", "QOI"),
)
"""What is decoded. Pillow's other readers would start a program (Ghostscript, for EPS) or are for no pictures."""
_GREY = ("1", "L", "LA", "La")  # Pillow's modes without colour
_ORIENTATION = 0x0112  # its EXIF tag
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
_SAID = {
    "turned": ("is turned as its EXIF orientation says", "are turned as their EXIF orientation says"),
    "alpha": (
        "has transparent pixels: the transparency is left out, colours are read as stored",
        "have transparent pixels: the transparency is left out, colours are read as stored",
    ),
    "several": ("holds several pictures: the first is read", "hold several pictures: the first of each is read"),
    "inks": (
        "is in colours for print (CMYK): converted to RGB without a colour profile",
        "are in colours for print (CMYK): converted to RGB without a colour profile",
    ),
}
"""What is said of one image and of several, by the remark that decoding makes."""


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


def opened_image(stream: BinaryIO) -> "Image":
    """Return an image of which no pixel has been read.

    Raises whatever its format's reader trips over first, and ``ValueError`` for what would not be read as it is: more
    than 8 bits, or more pixels than any picture has.
    """
    from PIL import Image

    image = Image.open(stream, formats=_formats())
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255 without a word
        raise ValueError(f"mode {image.mode}: only 8-bit images are read")
    if _is_deep(getattr(image, "tile", ())):  # and of colours it would keep the upper 8 bits
        raise ValueError("16 bits per channel: only 8-bit images are read")
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are more than {_MOST_PIXELS:,}")
    return image


def shape_of(image: "Image", form: Form) -> Shape:
    """Return the channels, height and width that an image has in a form."""
    if image.format == "TIFF":
        image.load()  # Pillow turns these by itself, some versions with their size from the start
    width, height = (form.size, form.size) if form.size else image.size
    if not form.size and image.getexif().get(_ORIENTATION) in _TURNED:
        width, height = height, width
    return form.channels or (1 if image.mode in _GREY else 3), height, width


def decoded_image(image: "Image", form: Form) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return the pixels of an image in a form, uint8 ``[C, H, W]``, and remarks on how they were read."""
    from PIL import ImageOps

    told = getattr(image, "tag_v2", None) or image.getexif()  # of TIFF and of the others
    remarks = ["turned"] if told.get(_ORIENTATION) in range(2, 9) else []
    if image.mode == "CMYK":
        remarks.append("inks")
    channels, height, width = shape_of(image, form)
    if form.size:
        image.draft(None, (width, height))  # a JPEG is decoded at the nearest half, quarter or eighth
    image.load()
    if image.getexif().get(_ORIENTATION) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if _is_transparent(image):
        remarks.append("alpha")
    wanted = "L" if channels == 1 else "RGB"
    if form.size:
        # Pillow resizes indices of a palette without a mean, and colours by their opacity.
        plain = image if image.mode in ("L", "RGB") else image.convert(wanted)
        image = ImageOps.fit(plain, (width, height), _BILINEAR)
    pixels = np.array(image.convert(wanted)).reshape(height, width, -1)
    return pixels.transpose(2, 0, 1), tuple(remarks)


def holds_several(image: "Image") -> bool:
    """Whether a file holds more pictures than the first: an animation, pages, a photograph's second layer."""
    return bool(getattr(image, "is_animated", False))


def said_of(remarks: Counter[str], where: str) -> tuple[str, ...]:
    """Return a sentence for every remark that was made of images."""
    return tuple(
        f"{where}: {counted(remarks[name], 'image')} {said[remarks[name] > 1]}"
        for name, said in _SAID.items()
        if remarks[name]
    )


def suffixes() -> frozenset[str]:
    """Return the suffixes of files that are decoded, in lower case, with their dots."""
    from PIL import Image

    known, formats = Image.registered_extensions(), _formats()
    return frozenset(suffix for suffix, kind in known.items() if kind in formats)


def why_damaged(problem: BaseException) -> str:
    """Return what a reader says of a damaged image, without the place of an object in memory."""
    return re.sub(r" <_io\.\w+ [^>]*>", "", reason(problem))


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _is_deep(tiles: Any) -> bool:
    """Whether Pillow's own plan of decoding names 16 bits of a channel, or a largest value above 255 (PPM)."""
    for tile in tiles:
        told = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        names = [part for part in told if isinstance(part, str) and not part.startswith("BGR")]  # 16 bits a pixel
        if any("16" in name.partition(";")[2] for name in names):
            return True
        if tile[0] == "ppm" and any(isinstance(part, int) and part > 255 for part in told):
            return True
    return False


def _is_transparent(image: "Image") -> bool:
    """Whether a pixel of an image lets anything through; an alpha channel of full opacity says nothing."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        opacity = np.array(image.getchannel(image.getbands()[-1]))
        return bool(opacity.min() < 255)
    return "transparency" in image.info
