"""A file that somebody else wrote: its tensors, and nothing that runs."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import torch
from safetensors.torch import load
from torch import Tensor, nn

from overproof.archives import check_unpacked, check_zip
from overproof.errors import InputError
from overproof.reading import parsing, read_bytes, read_json, reason
from overproof.wording import one_line


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


_DEEPEST = 64  # mappings inside each other; an optimiser's state is the fourth
_MOST_RECORDS = 2_000_000  # entries of all mappings; one that is reached on many ways counts on each
_MOST_TENSORS = 100_000  # of them; networks that are imported have hundreds
_LONGEST_NAME = 1000  # characters


def read_untrusted(file: Path, *, digest: str = "") -> dict[str, Any]:
    """Return what a PyTorch or safetensors file holds, as nested mappings whose leaves include tensors on the CPU.

    PyTorch files are read with ``weights_only=True``: no class is imported and no function called for them, but for
    tensors themselves; records that training tools are known to add are read as inert objects. ``digest`` is the
    file's expected SHA-256. Raises ``InputError`` that says what the file is instead: missing, another file than the
    digest's, a web page, an archive, cut off, one that wants code to run, or one that would take far more memory than
    its size.
    """
    return parse_untrusted(read_bytes(file), file, digest=digest)


def parse_untrusted(body: bytes, file: Path, *, digest: str = "") -> dict[str, Any]:
    """Return what the content of a file holds; see ``read_untrusted``."""
    actual = sha256(body).hexdigest()
    if digest and digest.lower() != actual:
        raise InputError(f"{file}: this is another file: its SHA-256 is {actual}, expected {digest.lower()}")
    if told := _is_something_else(body):
        raise InputError(f"{file}: this is {told}")
    with parsing(file, "a PyTorch or safetensors file"):
        tree = _safetensors(file, body) if _is_safetensors(body) else _pytorch(file, body)
        if not isinstance(tree, Mapping):
            raise InputError(f"{file}: it holds an object of type {type(tree).__name__}, not weights by their names")
        return dict(tree)


def tensor_maps(tree: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping of names to tensors in nested mappings, with its place (``"net"``, ``""`` for the whole).

    Lists and tuples are looked into as well: what lies in one of several entries has its number in the place
    (``"nets.1"``), the only entry has the place of its list. Only dense tensors on the CPU count. Raises ``InputError``
    where mappings contain themselves, or take more steps to walk through than any checkpoint does.
    """
    return _maps(tree, "", 0, Counter())


def read_config_beside(file: Path) -> dict[str, Any]:
    """Return what the ``config.json`` in a file's folder says (timm's and Hugging Face's layout), or nothing."""
    config = file.with_name("config.json")
    config_tree = read_json(config) if config.is_file() else {}
    return config_tree if isinstance(config_tree, dict) else {}


def _maps(
    tree: Mapping[Any, Any], place: str, depth: int, seen: Counter[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = {key: value for key, value in tree.items() if isinstance(key, str) and _is_plain(value)}
    seen.update(records=len(tree), tensors=len(tensors))
    if depth > _DEEPEST or seen["records"] > _MOST_RECORDS or seen["tensors"] > _MOST_TENSORS:
        raise InputError("its records contain each other, or are more than any checkpoint has")
    if any(len(key) > _LONGEST_NAME for key in tree if isinstance(key, str)):
        raise InputError(f"a name in it has more than {_LONGEST_NAME} characters")
    if tensors:
        yield place, tensors
    for key, value in tree.items():
        word = str(key) if isinstance(key, str | int) else "" if key is None else type(key).__name__
        inner = ".".join(filter(None, (place, word)))
        if isinstance(value, Mapping):
            yield from _maps(value, inner, depth + 1, seen)
        elif isinstance(value, list | tuple):
            yield from _maps(_entries(value), inner, depth + 1, seen)


def _entries(values: Sequence[Any]) -> dict[int | None, Any]:
    """Return what of a list may hold mappings, by its number; the only value has no number."""
    if len(values) == 1:
        return {None: values[0]}
    # A sampler's order is a list of as many numbers as there are images.
    return {i: value for i, value in enumerate(values) if isinstance(value, Mapping | list | tuple)}


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of numbers on the CPU: no sparse, nested, quantised, complex or meta one."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


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
    if body.startswith(b"PK\x03\x04") and not _is_of_torch(body):
        return "a zip archive of something else; unpack it first"
    if body[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if start[:1] == b"{" and not _is_safetensors(body):
        return "a JSON text, not a network"
    return ""


def _is_of_torch(body: bytes) -> bool:
    """Whether a zip archive has the record that torch writes first; one that cannot be listed is for its reader."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return any(name.rpartition("/")[2] in ("data.pkl", "constants.pkl") for name in archive.namelist())
    except Exception:  # of an archive that is cut off or damaged
        return True


def _is_safetensors(body: bytes) -> bool:
    return body[8:9] == b"{" and not body.startswith(b"{")


def _safetensors(file: Path, body: bytes) -> dict[str, Tensor]:
    try:
        return load(body)
    except Exception as problem:  # of foreign headers: types that torch does not have, shapes that it cannot take
        told = "damaged or cut off; not a whole safetensors file"
        raise InputError(f"{file}: {told} ({reason(problem)})") from problem


def _pytorch(file: Path, body: bytes) -> Any:
    parts = check_zip(io.BytesIO(body), file) if body.startswith(b"PK\x03\x04") else {}
    allowed: list[Any] = [(_Inert, name) for name in _RECORDS]
    try:
        with torch.serialization.safe_globals(allowed):
            tree = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as problem:  # of foreign bytes: torch raises what its readers stumble over
        raise InputError(f"{file}: {_reason(str(problem))}") from problem
    if isinstance(tree, list | tuple):
        tree = _entries(tree)
    if isinstance(tree, Mapping):
        try:
            _check_tensors(tree, parts, len(body), file)
        except InputError as problem:
            raise InputError(f"{file}: {str(problem).removeprefix(f'{file}: ')}") from problem
    return tree


def _check_tensors(tree: Mapping[Any, Any], parts: Mapping[str, int], size: int, file: Path) -> None:
    """Raise ``InputError`` where tensors claim more numbers than the file holds.

    torch before 2.10 takes a tensor's word for the length of its record (CVE-2026-24747); and a small record may be
    shown as a tensor of any size.
    """
    tensors = {id(value): value for _, maps in tensor_maps(tree) for value in maps.values()}
    check_unpacked(size, sum(value.numel() * value.element_size() for value in tensors.values()), file)
    storages = [value.untyped_storage() for value in tensors.values() if value.numel()]
    stored = {storage.data_ptr(): storage.nbytes() for storage in storages}
    if Counter(stored.values()) - Counter(parts.values()) if parts else sum(stored.values()) > size:
        raise InputError(f"{file}: damaged; its tensors claim more numbers than it holds")


def _reason(said: str) -> str:
    wanted = re.search(r"GLOBAL (\S+)|(?:reduce for unrecognized function|allowlisted via \S+ but got) (.+)", said)
    if wanted:
        name = one_line((wanted[1] or wanted[2]).rstrip(".").removeprefix("builtins."), 100)
        return (
            f"refused, and nothing of it was run: it holds more than tensors ({name}), which would run code while it "
            f"is read; where you trust it, save the tensors alone: torch.save(network.state_dict(), 'weights.pt')"
        )
    if "TorchScript" in said:
        return "this is a TorchScript program, not weights; save them with torch.save(network.state_dict(), ...)"
    if re.search("central directory|unexpected EOF|might be corrupted|PytorchStreamReader", said):
        return "damaged or cut off; fetch it again"
    return f"not a PyTorch or safetensors file, or cut off ({shorten(said or 'it ends too soon', 80)})"
