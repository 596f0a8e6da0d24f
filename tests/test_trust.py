import sys

import pytest

from overproof.errors import InputError
from overproof.trust import Code, EntryPoint, check_named_code, entry_points, module_word, source_of

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
        ("a.b:c?width=3&name=a:b#sha256=00", ("a.b", "c")),
        ("w.pt?model={kind: mlp, hidden: [16]}", None),
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
    "word",
    [
        "module:net",
        "module:net?width=3",
        "module:other",
        "package:Renamed",
        "package.deep:Net",
        "open:Net",
        "timm:resnet18",
        "a/b",
    ],
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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that lays down what an installer leaves of a package: its entry points."""

    def install(name, text, where="site"):
        folder = tmp_path / where / f"{name}-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(text)
        if str(folder.parent) not in sys.path:
            monkeypatch.syspath_prepend(folder.parent)

    return install


def test_entry_points_of_installed_packages_are_allowed(place, installed):
    installed("mine", "[overproof.students]\nmine = installed.networks:student\n")
    installed("other", "[console_scripts]\noverproof-tool = installed.other:tool\n")
    allowed("installed.networks:student", place)
    assert "--trust-code" in refused("installed.other:tool", place)


def test_entry_points_are_listed_by_group_and_a_package_counts_once(installed):
    assert not [point for point in entry_points() if point.package == "mine"]
    installed("mine", "[overproof.methods]\nb = m:B\na = m:A [extra]\n[overproof.data]\nc = m:C\n[x]\nd = m:D\n")
    installed("mine", "[overproof.methods]\na = elsewhere:A\n", where="earlier")
    assert entry_points("overproof.methods") == (EntryPoint("overproof.methods", "a", "elsewhere:A", "mine"),)
    (sys.path).remove(sys.path[0])
    assert [point.word for point in entry_points("overproof.methods")] == ["m:A", "m:B"]
    assert {point.group for point in entry_points() if point.package == "mine"} == {
        "overproof.methods",
        "overproof.data",
    }


def test_who_typed_a_word_is_decided_by_the_last_edit_of_it_or_above():
    code = Code(where="r.yaml", edits=(("method", True), ("method.base.kind", False), ("methodical", True)))
    assert code.typed("r.yaml.method") and code.typed("r.yaml.method.kind") and code.typed("r.yaml.method.base")
    assert not code.typed("r.yaml.method.base.kind")
    assert not code.typed("r.yaml.student") and not code.typed("r.yaml.met")
    assert code.typed("r.yaml.student", "r.yaml.method.kind")
    assert Code(own=True).typed("recipe.x") and not Code(own=True, edits=(("x", False),)).typed("recipe.x")


def test_a_word_of_the_users_is_not_looked_at_and_a_files_is(place):
    Code(where="r.yaml", edits=(("method", True),)).check("absent:net", "r.yaml.method.kind")
    with pytest.raises(InputError) as found:
        Code(where="r.yaml", folders=(place / "there",)).check("absent:net", "r.yaml.method.kind")
    assert f"(there is no 'absent' in {place / 'there'}, {place / 'here'})" in str(found.value)
    Code(where="r.yaml", folders=(place / "there",)).check("module:net", "r.yaml.method.kind")


def test_a_module_that_cannot_be_read_as_python_is_a_sentence(place):
    (place / "there" / "broken.py").write_text("def (")
    assert "not readable as Python" in refused("broken:net", place)
