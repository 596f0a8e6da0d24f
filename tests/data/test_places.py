from pathlib import Path

import pytest

from overproof.data.places import data_root, find, find_folder, where_looked
from overproof.errors import InputError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder, a home and a root of data, each with a data set of its own; return them."""
    places = {name: tmp_path / name for name in ("current", "home", "root")}
    for name, place in places.items():
        (place / f"of-{name}").mkdir(parents=True)
    monkeypatch.chdir(places["current"])
    monkeypatch.setenv("HOME", str(places["home"]))
    return places


@pytest.mark.parametrize("root", ["{root}", "~/../root", "../root", " {root} "])
def test_a_path_is_looked_for_here_and_under_the_root(here, monkeypatch, root):
    monkeypatch.setenv("OVERPROOF_DATA", root.format(root=here["root"]))
    assert find("of-current") == Path("of-current")
    assert find("of-root").resolve() == here["root"] / "of-root"
    assert find("~/of-home") == here["home"] / "of-home"
    assert find_folder("of-root").is_dir()
    assert find("nowhere") == Path("nowhere")
    assert where_looked().startswith(", neither here nor under OVERPROOF_DATA (")


@pytest.mark.parametrize("root", ["", "  ", None])
def test_an_empty_root_is_none(here, monkeypatch, root):
    if root is not None:
        monkeypatch.setenv("OVERPROOF_DATA", root)
    assert data_root() is None
    assert find("of-root") == Path("of-root")
    assert where_looked() == "; OVERPROOF_DATA may point at its parent"


def test_what_is_here_hides_what_is_under_the_root(here, monkeypatch):
    monkeypatch.setenv("OVERPROOF_DATA", str(here["root"]))
    (here["root"] / "of-current").mkdir()
    assert find("of-current") == Path("of-current")


def test_what_cannot_be_a_folder_is_one_sentence(here, monkeypatch):
    Path("file").write_text("")
    for word, said in (("", "is empty; write ."), ("nowhere", "no such data folder"), ("file", "name the folder")):
        with pytest.raises(InputError, match=said):
            find_folder(word)
    monkeypatch.setenv("OVERPROOF_DATA", "~nobody-of-this-name/data")
    with pytest.raises(InputError, match=r"^OVERPROOF_DATA \(~nobody-of-this-name/data\): "):
        find("x")
