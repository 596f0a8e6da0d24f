import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from overproof import trust
from overproof.errors import InputError
from overproof.trust import check_named_code, module_word, source_of

RUNS = "open('RAN', 'w').close()\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder and, beside it, a folder with a file of words; the module in the latter runs visibly."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "package").mkdir(parents=True)
    (tmp_path / "there" / "module.py").write_text(f"{RUNS}def net(): ...\nif True:\n    other = 1\n")
    (tmp_path / "there" / "package" / "__init__.py").write_text("from .deep import Net as Renamed\n")
    (tmp_path / "there" / "package" / "deep.py").write_text("class Net: ...\n")
    (tmp_path / "there" / "open.py").write_text("from package.deep import *\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def allowed(word, place, **options):
    before = set(sys.modules)
    check_named_code(word, folders=[place / "there", place / "here"], where="r.yaml", **options)
    assert not set(sys.modules) - before, "nothing is imported to find out"
    assert not (place / "here" / "RAN").exists()


def refused(word, place, **options):
    with pytest.raises(InputError) as found:
        allowed(word, place, **options)
    assert not (place / "here" / "RAN").exists()
    return str(found.value)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("a.b:c", ("a.b", "c")),
        ("a:c#sha256=00", ("a", "c")),
        ("timm:resnet18", None),
        ("robustbench:cifar10/Linf/X", None),
        ("hub:org/name", None),
        ("org/name", None),
        ("runs/x", None),
        ("runs/odd:name", None),
        ("C:\\x", ("C", "\\x")),
    ],
)
def test_which_words_name_code(word, named):
    assert module_word(word) == named


@pytest.mark.parametrize(
    "word", ["module:net", "module:other", "package:Renamed", "package.deep:Net", "open:Net", "timm:resnet18", "a/b"]
)
def test_what_lies_beside_the_file_is_allowed(word, place):
    allowed(word, place)


@pytest.mark.parametrize(
    "word", ["os:abort", "signal:pause", "os.path:exists", "sys:exit", "builtins:exit", "_io:open"]
)
def test_the_standard_library_is_never_allowed(word, place):
    for trusted in (False, True):
        assert "standard library" in refused(word, place, trust_code=trusted)


def test_a_module_that_hides_the_standard_library_is_no_way_in(place):
    (place / "there" / "os.py").write_text("def abort(): ...\n")
    assert "standard library" in refused("os:abort", place)


@pytest.mark.parametrize("word", ["torch.hub:load", "numpy:show_config", "absent:net", "..x:net", "a b:net", "x.:y"])
def test_installed_and_absent_code_needs_trust(word, place):
    assert "add --trust-code" in refused(word, place)
    allowed(word, place, trust_code=True)


def test_a_name_that_is_not_there_is_not_searched_by_running(place):
    assert refused("module:nett", place) == "r.yaml: module:nett: module.py has no 'nett' (did you mean 'net'?)"
    assert "has no 'Net'" in refused("package:Net", place)


def test_a_decoy_does_not_open_an_installed_package(place):
    (place / "there" / "numpy.py").write_text("def show_config(): ...\n")
    assert "an installed package is called 'numpy' as well" in refused("numpy:show_config", place)


def test_a_link_out_of_the_folder_is_not_in_it(place):
    (place / "elsewhere.py").write_text("def net(): ...\n")
    (place / "there" / "linked.py").symlink_to(place / "elsewhere.py")
    assert source_of("linked", place / "there") is None
    assert "--trust-code" in refused("linked:net", place)


def test_entry_points_of_installed_packages_are_allowed(place, monkeypatch):
    points = [
        EntryPoint("mine", "installed.networks:student", "overproof.students"),
        EntryPoint("mine", "installed.other:tool", "console_scripts"),
    ]
    monkeypatch.setattr(trust, "distributions", lambda: [SimpleNamespace(entry_points=points)])
    allowed("installed.networks:student", place)
    assert "--trust-code" in refused("installed.other:tool", place)


def test_a_module_that_cannot_be_read_as_python_is_a_sentence(place):
    (place / "there" / "broken.py").write_text("def (")
    assert "not readable as Python" in refused("broken:net", place)
