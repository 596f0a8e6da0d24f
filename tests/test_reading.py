import json
import os

import pytest

from overproof.environment import memory
from overproof.errors import InputError
from overproof.reading import (
    exists,
    field,
    is_file,
    is_folder,
    parsing,
    read_bytes,
    read_json,
    read_lines,
    read_object,
    read_text,
    reason,
)


def written(tmp_path, body):
    file = tmp_path / "given"
    file.write_bytes(body)
    return file


def test_a_file_is_read_whole_up_to_its_limit(tmp_path):
    file = written(tmp_path, b"12345")
    assert read_bytes(file) == b"12345"
    assert read_bytes(file, limit=5) == b"12345"
    with pytest.raises(InputError, match="5 bytes are more than the 4"):
        read_bytes(file, limit=4)


def test_a_sparse_file_larger_than_memory_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as stream:
        stream.truncate(memory())
    with pytest.raises(InputError, match=f"{memory():,} bytes are more than the {memory() // 2:,}"):
        read_bytes(file)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "nothing", "a broken link", "too long", "a zero"])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, kind):
    place = tmp_path / "given"
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a device":
        place.symlink_to("/dev/zero")
    elif kind == "a folder":
        place.mkdir()
    elif kind == "a broken link":
        place.symlink_to(tmp_path / "absent")
    elif kind == "too long":
        place = tmp_path / ("a" * 300)
    elif kind == "a zero":
        place = tmp_path / "a\0b"
    with pytest.raises(InputError):
        read_bytes(place)


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)  # root may read everything
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_bytes(written(tmp_path, b"x"))


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(written(tmp_path, b"x"))
    assert read_bytes(tmp_path / "link") == b"x"


def test_other_bytes_are_not_text(tmp_path):
    assert read_text(written(tmp_path, "ä".encode())) == "ä"
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(written(tmp_path, b"\xff"))


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b"1" * 5000, b"", b"\xff", b'{"a": 1} x', b"[" * 200 + b"1" * 9999]
)
def test_what_is_not_json_is_one_line(tmp_path, body):
    with pytest.raises(InputError) as found:
        read_json(written(tmp_path, body))
    assert "\n" not in str(found.value)
    assert str(tmp_path) in str(found.value)


def test_an_object_is_asked_for(tmp_path):
    assert read_object(written(tmp_path, b'{"a": 1}')) == {"a": 1}
    for body in (b"[]", b"5", b"null", b'"a"'):
        with pytest.raises(InputError, match="not a JSON object"):
            read_object(written(tmp_path, body))


def test_lines_end_where_a_crash_left_half_of_one(tmp_path):
    lines = [{"a": 1}, {"b": [2]}]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert list(read_lines(written(tmp_path, whole))) == lines
    assert list(read_lines(written(tmp_path, whole + b'{"c'))) == lines
    for body in (b"5\n", b"\x00\xff\xfe", b"[" * 100_000, b"[]\n", b"1" * 5000):
        with pytest.raises(InputError):
            list(read_lines(written(tmp_path, whole + body)))


@pytest.mark.parametrize(
    "problem", [KeyError("a"), TypeError(), RecursionError("x"), MemoryError(), OverflowError("long"), OSError(5, "io")]
)
def test_one_sentence_for_whatever_a_reader_raises(problem):
    with pytest.raises(InputError, match="the place: ") as found, parsing("the place", "a thing"):
        raise problem
    assert found.value.__cause__ is problem


def test_a_sentence_passes_a_boundary_as_it_is():
    with pytest.raises(InputError, match=r"^as it is$"), parsing("the place", "a thing"):
        raise InputError("as it is")


def test_an_interrupt_passes_a_boundary():
    with pytest.raises(KeyboardInterrupt), parsing("the place", "a thing"):
        raise KeyboardInterrupt


def test_reasons_are_short_lines():
    assert reason(KeyError("digest")) == "'digest' is missing"
    assert reason(ValueError("one\ntwo")) == "one two"
    assert reason(TypeError("no")) == "TypeError: no"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("a" * 10_000))) <= 200
    assert len(reason(ValueError("a " * 10_000))) <= 200


def test_a_field_is_there_and_of_its_type():
    assert field({"a": 1}, "a", int, where="f") == 1
    for found, said in (({}, "is missing"), ({"a": "1"}, "of type str"), ({"a": True}, "of type bool")):
        with pytest.raises(InputError, match=f"f: 'a' .*{said}"):
            field(found, "a", int, where="f")


@pytest.mark.parametrize("look", [is_file, is_folder, exists])
def test_where_the_system_cannot_look_nothing_is(look, tmp_path):
    for place in (tmp_path / "absent", tmp_path / ("a" * 300), tmp_path / "a\0b", written(tmp_path, b"") / "below"):
        assert look(place) is False
    assert look(tmp_path) is (look is not is_file)
