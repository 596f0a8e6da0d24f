import sys

import pytest

from overproof.errors import InputError
from overproof.models.imports import importable, imported, like, raised, thing


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder with a module, and another one that is the current one."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "named_things.py").write_text("def made(): ...\n")
    (tmp_path / "code" / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "code" / "wants.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "code"
    for name in ("named_things", "exits", "wants"):
        sys.modules.pop(name, None)


def refused(word):
    with pytest.raises(InputError) as caught:
        imported(word)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_lies_in_a_folder_is_found_and_the_search_path_given_back(code):
    before = list(sys.path)
    assert refused("named_things:made").startswith("named_things:made: no module 'named_things' in this folder")
    with importable(code):
        assert imported("named_things:made").__name__ == "made"
    assert sys.path == before


def test_the_search_path_is_given_back_after_an_error_too(code):
    before = list(sys.path)
    with pytest.raises(KeyError), importable(code):
        raise KeyError
    assert sys.path == before


def test_every_way_to_fail_is_one_sentence(code):
    with importable(code):
        assert refused("named_things:mode") == "named_things:mode: named_things has no 'mode' (did you mean 'made'?)"
        assert refused("exits:x") == "exits:x: importing exits raised SystemExit: 3"
        assert refused("wants:x").startswith("wants:x: importing wants raised ModuleNotFoundError: No module named")
    assert refused("a b:c") == "a b:c: write package.module:name"
    assert refused("module:") == "module:: write package.module:name"
    assert refused("overproof.nothing:x").startswith("overproof.nothing:x: no module 'overproof.nothing'")


def test_words_for_things():
    assert (thing(None), thing(int), thing({})) == ("None", "the class int", "an object of type dict")
    assert raised(ValueError("a\nb")) == "ValueError: a b"
    assert len(raised(ValueError("a " * 1000))) <= 200
    assert like("resnet19", ["resnet18", "vgg"]) == " (did you mean 'resnet18'?)"
    assert like("x", ["resnet18"]) == ""
