"""Good files made strange: by bytes, by the tree that a text means, by the parts of an archive or a graph."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = (
    *((number % 2**64).to_bytes(8, "little") for number in NUMBERS),
    *(b"\x00" * 16, b"\xff" * 16, b"\xff\xff\xff\x7f", b"nan", b"1e999", b"-", b"\x80\x02}", b"PK\x03\x04", b"PAR1"),
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"(", b")", b"&a", b"*a", b"!!python/object/apply:os.system", b"? "),
    *(b"[" * 3000, b"(" * 3000, b"9" * 5000, b"\xed\xa0\x80", "\u202e".encode(), b"\x1b[31m", b"../../../x", b"\n"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**62, 10**30, 10**400, -(10**400), 1e308, -1e-308),
    *(float("nan"), float("inf"), "", "0", "nan", "1e99999999", "x" * 20_000, "../../evil", "/etc/passwd", "\0", "\n"),
    *("\x1b[31m", "\u202e", "\ud800", "[/b]", "os:abort", "<script>", [], {}, [[]], [None], {"": None}, [0] * 5000),
    *({"kind": "mlp"}, {"kind": 5}, ["a", 1, None], {"a": {"b": {"c": []}}}),
)


def of_bytes(body: bytes, draw: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a body with one to eight changes: bits, bytes, tokens, a part missing, doubled or from another."""
    made = bytearray(body)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(made) + 1)
        size = min(draw.choice((1, 2, 8, 64, 1000)), len(made) - at)
        match draw.randrange(9):
            case 0 if at < len(made):
                made[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(made):
                made[at] = draw.randrange(256)
            case 2:
                made[at : at + size] = b""
            case 3:
                made[at:at] = made[at : at + size] * draw.choice((1, 2, 50))
            case 4:
                token = draw.choice(TOKENS)
                made[at : at + len(token)] = token
            case 5:
                made[at:at] = draw.choice(TOKENS)
            case 6:
                del made[at:]
            case 7:
                made[at : at + size] = draw.randbytes(size)
            case 8 if others:
                other = draw.choice(others)
                start = draw.randrange(len(other) + 1)
                made[at:] = other[start:]
    return bytes(made)


def of_tree(tree: Any, draw: Random) -> Any:
    """Return a tree of lists and mappings with one to four nodes exchanged, left out, wrapped or renamed."""
    made = json.loads(json.dumps(tree))
    for _ in range(draw.choice((1, 1, 2, 4))):
        places = list(_places(made))
        if not places:
            return deepcopy(draw.choice(VALUES))
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0 | 1:
                holder[key] = deepcopy(draw.choice(VALUES))
            case 2:
                del holder[key]
            case 3:
                depth = draw.choice((1, 2, 50, 2000))
                holder[key] = _wrapped(holder[key], depth)
            case 4 if isinstance(holder, dict):
                holder[draw.choice(("", "kind", "x" * 2000, "\ud800", "\x1b", "a.b"))] = holder.pop(key)
            case 5:
                other, place = draw.choice(places)
                if place in other if isinstance(other, dict) else place < len(other):
                    holder[key] = json.loads(json.dumps(other[place])) if _depth(other[place]) < 50 else None
    return made


def of_lines(body: bytes, draw: Random) -> bytes:
    """Return JSON lines of which some were changed as trees, doubled or left out."""
    lines = body.decode().splitlines()
    for _ in range(draw.choice((1, 3))):
        at = draw.randrange(len(lines))
        match draw.randrange(4):
            case 0 | 1:
                with suppress(RecursionError):  # of a line that an earlier change has made too deep for this reader
                    lines[at] = as_json(of_tree(json.loads(lines[at]), draw)) if lines[at].startswith('{"') else "5"
            case 2:
                lines[at:at] = [lines[at]] * 3
            case 3:
                lines[at] = draw.choice(("", "[]", "null", "{", "9" * 5000))
    return "\n".join(lines).encode(errors="surrogatepass")


def as_json(tree: Any) -> str:
    """Return a tree as JSON, however deep; some keys twice."""
    try:
        return json.dumps(tree)
    except RecursionError:
        return '{"a":' * 2000 + "1" + "}" * 2000


def of_archive(body: bytes, draw: Random, change: Callable[[str, bytes], bytes]) -> bytes:
    """Return a zip archive one of whose parts was changed, renamed, left out or stored twice; checksums are right."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    at = draw.randrange(len(parts))
    name, part = parts[at]
    match draw.randrange(8):
        case 0:
            del parts[at]
        case 1:
            parts.append((name, change(name, part)))
        case 2:
            parts[at] = (draw.choice(("../x", "a" * 300, "data.pkl", name.upper())), part)
        case _:
            parts[at] = (name, change(name, part))
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as archive:
        for name, part in parts:
            archive.writestr(zipfile.ZipInfo(name), part, packing)
    return made.getvalue()


def of_message(message: Any, draw: Random) -> None:
    """Change one to four fields of a protobuf message, in place."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        holders = list(_messages(message))
        holder = draw.choice(holders)
        field = draw.choice(holder.DESCRIPTOR.fields)
        try:
            _change(holder, field, draw)
        except (TypeError, ValueError, AttributeError):
            continue  # a number that does not fit into the field


def _change(holder: Any, field: Any, draw: Random) -> None:
    value = getattr(holder, field.name)
    if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
        if len(value) and draw.random() < 0.5:
            del value[draw.randrange(len(value))]
        elif field.message_type is None:
            value.append(_scalar(field, draw))
        elif len(value):
            value.add().CopyFrom(draw.choice(list(value)))
    elif field.message_type is not None:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _scalar(field, draw))


def _scalar(field: Any, draw: Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        text = draw.choice(
            ("", "x", "Loop", "If", "Scan", "Conv", "Cast", "Expand", "Tile", "Resize", "a" * 5000, "\x1b")
        )
        return text if field.type == field.TYPE_STRING else draw.choice((text.encode(), draw.randbytes(40)))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    return draw.choice((*NUMBERS, 2, 3, 7, 100, 10**6, 10**9, -2))


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "add") else (value,):
                yield from _messages(each)


def _places(tree: Any) -> Any:
    """Yield every (holder, key) of a tree."""
    stack = [tree]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            stack.append(holder[key])


def _wrapped(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _depth(tree: Any) -> int:
    depth, level = 0, [tree]
    while level and depth < 100:
        level = [
            part
            for each in level
            for part in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        depth += 1
    return depth
