"""What a source of a network is: the one place that tells a run folder from a file, a Hub id and a factory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.formats.hub import repository_id
from overproof.models.external.imports import read_options
from overproof.reading import exists, is_folder
from overproof.runs.folder import Run
from overproof.trust import ZOOS
from overproof.wording import one_line

AnySource = Run | Path | str | nn.Module
"""What every command takes for a network: a run, a path, a word that names one, or the network itself."""

Images = Source | str | tuple[Tensor, Tensor]
"""A source, a word for one, or pixels ``[N, C, H, W]`` (uint8, or floats in [0, 1]) and labels ``[N]``."""
Example = Tensor | tuple[int, int, int]
"""Pixels ``[N, C, H, W]`` that a network takes, or the size ``(C, H, W)`` of one image."""
Kind = Literal[
    "run", "hub", "onnx", "checkpoint", "program", "module", "timm", "torchvision", "robustbench", "in memory"
]
SUFFIXES: Mapping[str, Kind] = {
    ".onnx": "onnx",
    ".pt2": "program",
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".t7", ".bin", ".tar", ".model", ".safetensors"), "checkpoint"),
}
"""What the suffix of a file says of it."""
_PIN = "#sha256="
_ATTRIBUTE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A source as it was written: ``text`` without pin and options, the ``options`` behind it, the pinned digest.

    ``query`` are the options as they were written.
    """

    text: str
    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)
    query: str = ""
    pin: str = ""

    @property
    def name(self) -> str:
        """The source as it is shown: what was written, without the pin."""
        return f"{self.text}?{self.query}" if self.query else self.text

    @property
    def path(self) -> Path:
        """The file or folder that it is, where it is one."""
        return Path(self.text)


def read_word(source: Path | str) -> Word:
    """Return what a path or a word means; nothing is opened or imported.

    A ``Path`` is a file or folder and nothing else. A text is read as: what is here under this name; a file by its
    suffix; a repository of the Hub (``hub:org/name@revision``, ``org/name``); ``timm:NAME`` and the other zoos;
    ``package.module:factory``; else a run folder. Behind a factory, a checkpoint and an ONNX file there may be options,
    ``?key=value&key=value``, and behind everything a pin, ``#sha256=...``. Raises ``InputError`` for half a pin,
    options that are not written so, options of what takes none, and a name that is here and names code as well.
    """
    if isinstance(source, Path):
        return Word(text=str(source), kind=_of_path(source))
    text, pin = split_pin(source)
    if exists(Path(text)):
        return Word(text=text, kind=_kind(text), pin=pin)
    name, mark, query = text.partition("?")
    kind = _kind(name)
    if not mark:
        return Word(text=text, kind=kind, pin=pin)
    shown = one_line(name, 300)
    if kind not in ("module", "checkpoint", "onnx", "timm", "torchvision", "robustbench"):
        raise InputError(
            f"{shown}: options (?key=value) are for package.module:factory, files of weights and ONNX files"
        )
    return Word(text=name, kind=kind, options=read_options(query, where=shown), query=query, pin=pin)


def with_layout(source: str, layout: str | None) -> str:
    """Return an ONNX file's word with the order of its axes (``nchw`` or ``nhwc``); None leaves any word as it is.

    Raises ``InputError`` for a word that is no ONNX file's or says a layout itself.
    """
    if layout is None:
        return source
    word = read_word(source)
    if word.kind != "onnx":
        raise InputError(f"{word.name}: the layout of images (--layout) is a question of ONNX files alone")
    if "layout" in word.options:
        raise InputError(f"{word.name}: it says its layout already; leave out --layout")
    query = f"{word.query}&layout={layout}" if word.query else f"layout={layout}"
    return f"{word.text}?{query}" + (f"{_PIN}{word.pin}" if word.pin else "")


def split_pin(word: str) -> tuple[str, str]:
    """Return a word without its pin, and the pinned digest (``""``: none); raise ``InputError`` for half a digest."""
    name, mark, digest = word.partition(_PIN)
    if mark and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InputError(f"{word}: a pin is {_PIN} and the 64 hexadecimal digits of the SHA-256 of the weights or file")
    return name, digest.lower()


def _kind(name: str) -> Kind:
    if exists(Path(name)):
        if _names_code(name):
            raise InputError(
                f"{name}: this is here, and a name of code or of a zoo as well; write ./{name} for what is here, or "
                "rename it"
            )
        return _of_path(Path(name))
    before, colon, _ = name.partition(":")
    if Path(name).suffix == ".onnx" or not colon or "/" in before:
        kind = _of_path(Path(name))
        return "hub" if kind == "run" and repository_id(name) else kind
    if before == "hub":
        return "hub"
    return before if before in ("timm", "torchvision", "robustbench") else "module"  # type: ignore[return-value]


def _of_path(place: Path) -> Kind:
    return "run" if is_folder(place) else SUFFIXES.get(place.suffix.lower(), "run")


def _names_code(name: str) -> bool:
    return bool(_ATTRIBUTE.fullmatch(name)) or (name.partition(":")[0] in ZOOS and ":" in name)
