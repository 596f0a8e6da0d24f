import re
import sys

import pytest

from overproof.errors import InputError
from overproof.models.external.imports import (
    arguments,
    describe_exception,
    import_named,
    importable,
    like,
    read_options,
    thing,
)
from overproof.signature import Signature


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
        import_named(word)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_lies_in_a_folder_is_found_and_the_search_path_given_back(code):
    before = list(sys.path)
    assert refused("named_things:made").startswith(
        f"named_things:made: no module 'named_things' in {code.parent / 'here'}, or installed"
    )
    with importable(code):
        assert import_named("named_things:made").__name__ == "made"
    assert sys.path == before
    with importable(code.parent):
        places = f"{code.parent / 'here'} or in {code.parent}"
        assert refused("nowhere_at_all:x") == f"nowhere_at_all:x: no module 'nowhere_at_all' in {places}, or installed"


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


# --- what a factory is called with ------------------------------------------------------------------------------------


def test_options_have_the_types_of_yaml():
    found = read_options("depth=8&rate=0.5&bias=true&name=gelu&none=null&", where="nets:make")
    assert found == {"depth": 8, "rate": 0.5, "bias": True, "name": "gelu", "none": None}
    assert [type(value) for value in found.values()] == [int, float, bool, str, type(None)]
    assert read_options("", where="nets:make") == {}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("depth", "n:m: options are written ?name=value&name=value"),
        ("=3", "n:m: options are written ?name=value&name=value"),
        ("a-b=3", "n:m: options are written ?name=value&name=value"),
        ("depth=3&depth=4", "n:m: depth is given twice"),
    ],
)
def test_options_that_cannot_be_read(query, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        read_options(query, where="n:m")


SIGNATURE = Signature(channels=1, height=8, width=8, classes=10)
WIDE = Signature(channels=3, height=8, width=9, classes=2)


def given(factory, options=None, signature=SIGNATURE, *, needed_only=True):
    return arguments(factory, options or {}, signature, word="n:m", advice="say them", needed_only=needed_only)


def test_a_factory_is_given_what_it_needs_or_has_parameters_for():
    def make(num_classes, in_channels=3, *, img_size, width=8): ...

    assert given(make) == {"num_classes": 10, "img_size": 8}
    assert given(make, signature=WIDE)["img_size"] == (8, 9)
    assert given(make, needed_only=False) == {"num_classes": 10, "in_channels": 1, "img_size": 8}
    assert given(make, {"width": 4, "num_classes": 3}) == {"num_classes": 3, "img_size": 8, "width": 4}
    assert given(lambda *others, **words: None, {"anything": 1}) == {"anything": 1}
    assert given(dict, {"x": 1}) == {"x": 1}  # it does not say what it takes


def test_what_a_factory_does_not_take_or_lacks_is_one_sentence():
    def make(width, depth=2, /): ...

    def plain(width): ...

    def alone(): ...

    for factory, options, sentence in (
        (plain, {"widht": 3}, "n:m: it takes no 'widht' (did you mean 'width'?)"),
        (plain, {}, "n:m: it needs arguments (width); say them"),
        (alone, {"width": 3}, "n:m: it takes no 'width' and no others"),
        (make, {}, "n:m: it needs arguments (width); say them"),  # by position only
    ):
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            given(factory, options)
    with pytest.raises(InputError, match="it needs arguments"):
        given(lambda num_classes: None, signature=None)


def test_words_for_things():
    assert (thing(None), thing(int), thing({})) == ("None", "the class int", "an object of type dict")
    assert describe_exception(ValueError("a\nb")) == "ValueError: a b"
    assert len(describe_exception(ValueError("a " * 1000))) <= 200
    assert like("resnet19", ["resnet18", "vgg"]) == " (did you mean 'resnet18'?)"
    assert like("x", ["resnet18"]) == ""
