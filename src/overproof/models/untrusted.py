"""A file that somebody else wrote: its tensors, and nothing that runs."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from overproof.errors import InputError


class _Inert:
    """What stands for a record that training tools leave beside the weights: takes whatever comes, does nothing."""

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_RECORDS = (
    "argparse.Namespace",  # torchdistill's and timm's arguments
    "builtins.iter",
    "datetime.datetime",
    "datetime.timedelta",
    "itertools.cycle",
    *(f"mair.defenses.rm.{name}" for name in ("RecordManager", "HistoryMeter", "IntMeter", "FloatMeter")),
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Bool")),
    "pathlib.PosixPath",
)
"""Classes that stand in real checkpoints. None is imported or called: each name is read as an ``_Inert``."""
_OTHERS = {
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\x89HDF": "an HDF5 file (Keras); only PyTorch and safetensors files can be read",
    b"version https://git-lfs": "a Git LFS pointer instead of the file; fetch it with: git lfs pull",
    b"\x93NUMPY": "a NumPy array; only PyTorch and safetensors files can be read",
}


def read_untrusted(file: Path, *, digest: str = "") -> dict[str, Any]:
    """Return what a PyTorch or safetensors file holds, as nested mappings whose leaves include tensors on the CPU.

    PyTorch files are read with ``weights_only=True``: no class is imported and no function called for them, but for
    tensors themselves; records that training tools are known to add are read as inert objects. ``digest`` is the
    file's expected SHA-256. Raises ``InputError`` that says what the file is instead: missing, another file than the
    digest's, a web page, an archive, cut off, or one that wants code to run.
    """
    try:
        body = file.read_bytes()
    except OSError as problem:
        raise InputError(f"{file}: cannot be read ({problem.strerror})") from problem
    found = sha256(body).hexdigest()
    if digest and digest.lower() != found:
        raise InputError(f"{file}: this is another file: its SHA-256 is {found}, expected {digest.lower()}")
    if told := _is_something_else(body):
        raise InputError(f"{file}: this is {told}")
    tree = _safetensors(file, body) if _is_safetensors(body) else _pytorch(file, body)
    if isinstance(tree, Tensor) or not isinstance(tree, Mapping):
        raise InputError(f"{file}: it holds an object of type {type(tree).__name__}, not weights by their names")
    return dict(tree)


def tensor_maps(tree: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping of names to tensors in nested mappings, with its place (``"net"``, ``""`` for the whole)."""
    tensors = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield "", tensors
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{place}" if place else str(key), found) for place, found in tensor_maps(value))


def described_beside(file: Path) -> dict[str, Any]:
    """Return what the ``config.json`` in a file's folder says (timm's and Hugging Face's layout), or nothing."""
    config = file.with_name("config.json")
    try:
        found = json.loads(config.read_text()) if config.is_file() else {}
    except ValueError as problem:
        raise InputError(f"{config}: not readable as JSON ({problem})") from problem
    return found if isinstance(found, dict) else {}


def _is_something_else(body: bytes) -> str:
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not body:
        return "an empty file; the download failed"
    if start[:1] == b"<":
        return (
            "a web page, not a network: the link leads to a page (a login, a warning or an error); open it in a browser"
        )
    for magic, told in _OTHERS.items():
        if body.startswith(magic):
            return told
    if body[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if start[:1] == b"{" and not _is_safetensors(body):
        return "a JSON text, not a network"
    return ""


def _is_safetensors(body: bytes) -> bool:
    return body[8:9] == b"{" and not body.startswith(b"{")


def _safetensors(file: Path, body: bytes) -> dict[str, Tensor]:
    try:
        return load(body)
    except SafetensorError as problem:
        raise InputError(f"{file}: damaged or cut off; not a whole safetensors file ({problem})") from problem


def _pytorch(file: Path, body: bytes) -> Any:
    allowed: list[Any] = [(_Inert, name) for name in _RECORDS]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as problem:  # of foreign bytes: torch raises what its readers stumble over
        raise InputError(f"{file}: {_reason(str(problem))}") from problem


def _reason(said: str) -> str:
    wanted = re.search(r"GLOBAL (\S+)|(?:reduce for unrecognized function|allowlisted via \S+ but got) (.+)", said)
    if wanted:
        name = (wanted[1] or wanted[2]).rstrip(".").removeprefix("builtins.")
        return (
            f"refused, and nothing of it was run: it holds more than tensors ({name}), which would run code while it "
            f"is read; where you trust it, save the tensors alone: torch.save(network.state_dict(), 'weights.pt')"
        )
    if "TorchScript" in said:
        return "this is a TorchScript program, not weights; save them with torch.save(network.state_dict(), ...)"
    if re.search("central directory|unexpected EOF|might be corrupted|PytorchStreamReader", said):
        return "damaged or cut off; fetch it again"
    return f"not a PyTorch or safetensors file, or cut off ({shorten(said or 'it ends too soon', 80)})"
