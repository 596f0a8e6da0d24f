"""The one word for a data set."""

import pytest

from overproof.data.words import described, looks_like_path
from overproof.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A current folder and a root, each with one data set of every kind."""
    for place in ("here", "root"):
        (tmp_path / place / f"classes-{place}" / "train" / "a").mkdir(parents=True)
        (tmp_path / place / f"tables-{place}" / "data").mkdir(parents=True)
        (tmp_path / place / f"tables-{place}" / "data" / "train.parquet").write_bytes(b"")
        (tmp_path / place / f"array-{place}.npz").write_bytes(b"")
        (tmp_path / place / "org" / f"set-{place}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.setenv("OVERPROOF_DATA", str(tmp_path / "root"))


@pytest.mark.parametrize("place", ["here", "root"])
def test_what_is_here_or_under_the_root_is_a_path(place):
    assert described(f"classes-{place}") == {"kind": "folder", "path": f"classes-{place}"}
    assert described(f"tables-{place}/") == {"kind": "parquet", "path": f"tables-{place}/"}
    assert described(f"array-{place}.npz") == {"kind": "npz", "path": f"array-{place}.npz"}
    assert described(f"org/set-{place}") == {"kind": "folder", "path": f"org/set-{place}"}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("digits", {"kind": "digits"}),
        ("ylecun/mnist", {"kind": "hub", "id": "ylecun/mnist"}),
        ("org/set-v1.0", {"kind": "hub", "id": "org/set-v1.0"}),
        ("~/classes-here", {"kind": "folder", "path": "~/classes-here"}),
        (".", {"kind": "parquet", "path": "."}),
        ("missing.npz", {"kind": "npz", "path": "missing.npz"}),
        ("MISSING.NPZ", {"kind": "npz", "path": "MISSING.NPZ"}),
    ],
)
def test_other_words(word, found):
    assert described(word) == found


@pytest.mark.parametrize(
    "word",
    ["./x", "../x", "/x", "~/x", "x.zip", "org/x.parquet", "org/x.tar.gz", "a/b/c", "runs/x/", "a\\b", "org/data.h5"],
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(word):
    assert looks_like_path(word)
    with pytest.raises(InputError, match="there is no such file or folder, neither here nor under OVERPROOF_DATA"):
        described(word)


@pytest.mark.parametrize("word", ["minst", "gro/", "org/a b", "-x/y", "org/ä", "a@b/c"])
def test_what_is_no_hub_id_is_one_sentence(word):
    with pytest.raises(
        InputError, match=r"there is no such|nothing of this name is here.* a hub id \(org/name\), digits"
    ):
        described(word)


@pytest.mark.parametrize("name", ["x.zip", "x.parquet", "x"])
def test_a_file_of_another_kind_is_one_sentence(name, tmp_path):
    (tmp_path / "here" / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"^{name}: a file that is no .npz archive; "):
        described(name)
