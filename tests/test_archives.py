import gzip
import io
import struct
import zipfile

import pytest

from overproof import archives
from overproof.archives import check_unpacked, check_zip, gunzip, most_unpacked
from overproof.environment import memory
from overproof.errors import InputError


def packed(parts, *, comment=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, body in parts.items():
            archive.writestr(name, body)
    return file.getvalue()


def refused(body):
    with pytest.raises(InputError) as caught:
        check_zip(io.BytesIO(body), "x.zip")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_small_files_may_unpack_to_a_gibibyte_and_large_ones_to_64_times_their_size(monkeypatch):
    monkeypatch.setattr(archives, "memory", lambda: 2**50)
    assert most_unpacked(10) == 2**30
    assert most_unpacked(2**30) == 2**36


def test_nothing_unpacks_to_more_than_half_the_memory():
    assert most_unpacked(2**60) == memory() // 2


def test_sizes_are_read_off_the_directory():
    assert check_zip(io.BytesIO(packed({"a": bytes(1000), "b/c": b"12"})), "x.zip") == {"a": 1000, "b/c": 2}


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(archives, "_ALWAYS", 100)
    body = packed({"a": bytes(10**6)})
    assert refused(body) == (
        f"x.zip: its {len(body):,} bytes would unpack to 1,000,000, more than the {64 * len(body):,} that such a file "
        "may take"
    )
    check_unpacked(10, 640, "x")
    with pytest.raises(InputError):
        check_unpacked(10, 641, "x")


def test_many_names_of_the_same_bytes_count_each(monkeypatch):
    """A directory whose entries overlap: a few bytes of data, and as many parts as there are entries."""
    monkeypatch.setattr(archives, "_ALWAYS", 0)
    body = packed({"a": bytes(60_000)})
    start = struct.unpack_from("<L", body, len(body) - 6)[0]
    entry, end = body[start:-22], body[-22:]
    many = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 500, 500, 500 * len(entry), start, 0)
    assert len(end) == len(many)
    assert "would unpack to 30,000,000" in refused(body[:start] + entry * 500 + many)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_what_was_cut_off_is_called_so(cut):
    assert refused(packed({"a": b"1"})[:-cut]) == "x.zip: damaged or cut off; fetch it again"


def test_a_directory_that_readers_disagree_about_is_refused():
    assert refused(packed({"a": b"1"}, comment=b"hello")) == "x.zip: damaged or cut off; fetch it again"
    body = packed({"a": b"1"})
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    assert refused(body[:-22] + locator + body[-22:]) == "x.zip: damaged or cut off; fetch it again"


def test_a_damaged_directory_is_one_sentence():
    body = packed({"a": b"1", "b": b"2"})
    start = struct.unpack_from("<L", body, len(body) - 6)[0]
    assert refused(body[:start] + b"XXXX" + body[start + 4 :]).startswith("x.zip: not readable as a zip archive")


def test_a_gzip_file_is_unpacked_and_anything_else_is_left():
    body = gzip.compress(b"(assert)" * 100)
    assert gunzip(body, "q.gz") == b"(assert)" * 100 == gunzip(body, "q.gz", most=800)
    assert gunzip(body + body, "q.gz") == b"(assert)" * 200
    assert gunzip(b"(assert)", "q") == b"(assert)"


@pytest.mark.parametrize("harm", [lambda b: b[:-10], lambda b: b[:20] + b"x" + b[21:], lambda b: b[:5]])
def test_a_damaged_gzip_file_is_one_sentence(harm):
    with pytest.raises(InputError, match=r"^q\.gz: not readable as a gzip file, or cut off \(.*\)$"):
        gunzip(harm(gzip.compress(bytes(range(256)) * 50)), "q.gz")


def test_a_gzip_file_unpacks_to_no_more_than_it_may():
    body = gzip.compress(bytes(10**6))
    with pytest.raises(InputError, match=rf"^q\.gz: its {len(body):,} bytes unpack to more than 1,000$"):
        gunzip(body, "q.gz", most=1000)
