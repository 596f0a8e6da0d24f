"""Text of a stranger where it is shown or becomes a name: what a terminal would obey is made visible, paths stay in."""

from hashlib import sha256
from pathlib import PurePosixPath

_LONGEST = 4000  # characters of one shown line
_PART = 255  # bytes of a file's name that every common file system takes


def visible(text: str) -> str:
    """Return text in which every character that is not printed but obeyed is written as its code.

    Those are control characters (C0, C1, DEL), bidirectional and other format characters, lone surrogates (bytes of a
    file name that are no UTF-8) and private ones; line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _code(letter) for letter in text)


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return text as one visible line of at most so many characters; the middle of a longer one is left out."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return visible(text if text.isprintable() else " ".join(part.strip() for part in text.splitlines()))


def check_path_name(name: str) -> None:
    """Raise ``ValueError`` unless a name may become a folder below another one: ``ard``, ``sweep/seed=0``.

    Refused are an empty name, an absolute one, parts that are empty, ``.`` or ``..``, characters that are not printed,
    and parts longer than file systems take.
    """
    parts = name.split("/")
    if not name.isprintable() or "\\" in name:
        raise ValueError(f"a name is printable text, and a folder's; got {one_line(repr(name), 100)}")
    if PurePosixPath(name).is_absolute() or any(part.strip() in ("", ".", "..") for part in parts):
        raise ValueError(f"a name is a folder below the current one, so without '..' or '/' in front; got {name!r}")
    if any(len(part.encode()) > _PART for part in parts) or len(name.encode()) > 4 * _PART:
        raise ValueError(f"a name has at most {_PART} bytes, as a folder's; this one has {len(name.encode()):,}")


def folder_name(word: str) -> str:
    """Return a folder's name for any word: its letters and digits, with a digest behind them where it is too long."""
    name = "".join(letter if letter.isalnum() else "-" for letter in word)
    if len(name.encode()) <= _PART:
        return name
    return f"{name[: _PART // 8]}-{sha256(word.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _code(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
