from dataclasses import dataclass, field, replace

import pytest

from overproof.attacks.ball import Threat
from overproof.attacks.base import BaseAttack
from overproof.building import DATA, alternatives, build_value, data_source, hints, leaves, plain
from overproof.data.augment import Augment
from overproof.data.sources import Digits, Source
from overproof.errors import InputError
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.models.architectures.architecture import Architecture
from overproof.models.external.module import External
from overproof.recipe import differences, dump, identity, of_tree, parse, read, read_suite, read_values
from overproof.trust import Code
from overproof.unloaded import UnloadedAttack, UnloadedAugment, UnloadedMethod, UnloadedSource

OWN = """
from dataclasses import dataclass, field
from typing import ClassVar
import torch
from torch import nn
from overproof.attacks import PGD, BaseAttack, Length, NormField
from overproof.data import Augment, Digits, Source
from overproof.methods import Method
from overproof.models import Architecture

@dataclass(frozen=True, kw_only=True)
class Search(BaseAttack):
    '''A search.'''
    kind: str = "search"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    tries: int = 2
    needs_goal: ClassVar[bool] = False
    def search(self, model, x, objective):
        return (x + self.eps).clamp(0, 1)

@dataclass(frozen=True, kw_only=True)
class Part:
    share: float = 0.5
    names: tuple[str, ...] = ("a",)

@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    '''A method.'''
    kind: str = "mine"
    part: Part = Part()
    search: BaseAttack = field(default_factory=Search)
    own: Search = field(default_factory=Search)
    searches: tuple[BaseAttack, ...] = (Search(tries=3),)
    roles = ()
    presets = {"strong": {"part": {"share": 0.9}}}
    def __post_init__(self):
        if self.part.share > 1:
            raise ValueError("share is at most 1")
    def losses(self, step):
        x = self.search(step.student, step.x, lambda x: x.flatten(1).sum(dim=1))
        yield {"label": torch.nn.functional.cross_entropy(step.student(x), step.y)}

@dataclass(frozen=True, kw_only=True)
class Data(Source):
    '''Digits.'''
    kind: str = "own-digits"
    label: str = ""
    def open(self, split):
        return Digits().open(split)

@dataclass(frozen=True, kw_only=True)
class Dark(Augment):
    '''Darker.'''
    kind: str = "dark"
    by: int = 2
    def apply(self, images, draws):
        return super().apply(images, draws) // self.by

@dataclass(frozen=True, kw_only=True)
class Net(Architecture):
    kind: str = "net"
    width: int = 4
    def build(self, signature):
        n = signature.channels * signature.height * signature.width
        layers = nn.Linear(n, self.width), nn.ReLU(), nn.Linear(self.width, signature.classes)
        return nn.Sequential(nn.Flatten(), *layers)
"""
TREE = {
    "name": "own",
    "data": "own_m:Data",
    "threat": {"norm": "l2", "eps": "1/2"},
    "augment": {"kind": "own_m:Dark", "by": 3, "crop": 1},
    "student": {"kind": "own_m:Net", "width": 5},
    "method": {"kind": "own_m:Mine", "part": {"share": 0.25}},
    "training": {"epochs": 1, "batch": 500},
    "evaluation": {"attacks": [{"name": "own", "attack": {"kind": "own_m:Search", "tries": 7}}]},
}
POINTS = {
    "methods": "mine = own_m:Mine",
    "attacks": "search = own_m:Search",
    "data": "own-digits = own_m:Data",
    "augmentations": "dark = own_m:Dark",
    "models": "net = own_m:Net",
}


@pytest.fixture
def beside(lay, tmp_path, monkeypatch):
    monkeypatch.chdir(lay("elsewhere"))
    return lay("beside", own_m=OWN)


@pytest.fixture
def recipe(beside):
    return of_tree(TREE, folder=beside)


class TestWords:
    def test_keys_have_the_defaults_of_the_class_and_inherit_the_threat(self, recipe):
        method = recipe.method
        assert (method.part.share, method.part.names) == (0.25, ("a",))
        for search in (method.search, method.own, *method.searches, recipe.evaluation.attacks[0].attack):
            assert type(search).__name__ == "Search" and (search.norm, str(search.eps)) == ("l2", "1/2")
        assert method.searches[0].tries == 3 and recipe.evaluation.attacks[0].attack.tries == 7
        assert (recipe.augment.by, recipe.augment.crop) == (3, 1) and recipe.augment.varies
        assert len(recipe.data.load("test")) == 360
        assert recipe.student == External(factory="own_m:Net", options={"width": 5})

    def test_what_is_written_finds_it_again(self, recipe, beside, tmp_path):
        text = dump(recipe)
        for word in ("Mine", "Search", "Data", "Dark", "Net"):
            assert f"own_m:{word}" in text
        file = beside / "recipe.yaml"
        file.write_text(text)
        assert read(file) == recipe and dump(read(file)) == text
        assert read(file).digest == recipe.digest and hash(recipe.method)

    def test_keys_of_a_class_are_checked(self, beside):
        for path, said in {
            "method.part.shar": r"method.part: unknown key 'shar' \(did you mean 'share'\?\)",
            "method.par": r"method: unknown key 'par' \(did you mean 'part'\?\)",
            "augment.cropp": r"augment: unknown key 'cropp' \(did you mean 'crop'\?\)",
            "method.search.trie": r"method.search: unknown key 'trie' \(did you mean 'tries'\?\)",
        }.items():
            with pytest.raises(InputError, match=said):
                of_tree(TREE, [f"{path}=1"], folder=beside)
        with pytest.raises(InputError, match=r"method.part.share: cannot use 'x': expected a valid number"):
            of_tree(TREE, ["method.part.share=x"], folder=beside)
        with pytest.raises(InputError, match="method: share is at most 1"):
            of_tree(TREE, ["method.part.share=2"], folder=beside)

    def test_presets_work(self, beside):
        tree = {**TREE, "method": {"kind": "own_m:Mine", "preset": "strong"}}
        assert of_tree(tree, folder=beside).method.part.share == 0.9
        with pytest.raises(InputError, match="'mine' has no preset 'strog'"):
            of_tree({**TREE, "method": {"kind": "own_m:Mine", "preset": "strog"}}, folder=beside)

    @pytest.mark.parametrize("key", ["method", "augment", "data", "evaluation.attacks.0.attack"])
    def test_a_file_may_not_name_what_lies_elsewhere_and_the_user_may(self, lay, key, tmp_path, monkeypatch):
        monkeypatch.chdir(lay("elsewhere"))
        beside = lay("empty")
        monkeypatch.syspath_prepend(lay("path", own_m=OWN))
        ours = {"name": "x", "data": "digits", "student": "mlp", "method": "natural"}
        last = {"method": "Mine", "augment": "Dark", "data": "Data"}.get(key, "Search")
        if last == "Search":
            edit = "evaluation.attacks=[{name: a, attack: {kind: 'own_m:Search'}}]"
            tree = {**ours, "evaluation": {"attacks": [{"name": "a", "attack": {"kind": "own_m:Search"}}]}}
        else:
            edit, tree = f"{key}.kind=own_m:{last}", {**ours, key: {"kind": f"own_m:{last}"}}
            ours = {**ours, key: {}}
        with pytest.raises(InputError, match=rf"r.yaml\.{key}\.kind: own_m:{last}: a file may only name code"):
            of_tree(tree, folder=beside, where="r.yaml")
        allowed = of_tree(tree, folder=beside, trust_code=True)
        assert of_tree(ours, [edit], folder=beside) == allowed
        with pytest.raises(InputError, match="a file may only name code"):
            of_tree(ours, edits=[edit], folder=beside)

    def test_the_standard_library_is_refused_in_a_file_even_where_it_is_trusted(self, beside):
        for key in ("method", "data", "augment"):
            with pytest.raises(InputError, match=f"recipe.{key}.kind: os:abort: .* standard library"):
                of_tree({**TREE, key: {"kind": "os:abort"}}, folder=beside, trust_code=True)

    def test_a_nested_method_of_another_package(self, beside):
        tree = {**TREE, "method": {"kind": "awp", "base": {"kind": "own_m:Mine"}}}
        recipe = of_tree(tree, folder=beside)
        assert recipe.method.base.kind == "mine" and "own_m:Mine" in dump(recipe)
        with pytest.raises(InputError, match=r"method\.base\.kind: own_q:Mine: a file may only"):
            of_tree({**tree, "method": {"kind": "awp", "base": "own_q:Mine"}}, ["method.gamma=0.1"], folder=beside)


class TestEntryPoints:
    def test_names_and_words_are_the_same_recipe(self, install):
        install("own", POINTS, own_m=OWN)
        names = {
            **TREE,
            "data": "own-digits",
            "augment": {"kind": "dark", "by": 3, "crop": 1},
            "student": {"kind": "net", "width": 5},
            "method": {"kind": "mine", "part": {"share": 0.25}},
            "evaluation": {"attacks": [{"name": "own", "attack": {"kind": "search", "tries": 7}}]},
        }
        one, other = (of_tree(tree, folder=()) for tree in (names, TREE))
        assert one == other and one.digest == other.digest
        assert plain(one)["method"]["kind"] == "mine" and plain(one)["data"]["kind"] == "own-digits"
        assert parse(dump(one)) == one

    def test_a_student_of_two_packages(self, install):
        install("one", POINTS, own_m=OWN)
        install("two", {"models": "net = own_n:Net"})
        with pytest.raises(InputError, match="student: two installed packages have a student 'net', one and two"):
            of_tree({**TREE, "student": "net"}, folder=())

    def test_a_stranger_makes_no_student_of_a_package(self, install):
        install("one", {"models": "net = own_m:Net"})
        with pytest.raises(InputError, match="'net' is code that is not part of overproof"):
            build_value(Architecture, "net")

    def test_data_by_one_word(self, install, monkeypatch):
        install("own", POINTS, own_m=OWN)
        assert data_source("own-digits") == data_source("own_m:Data") == data_source("{kind: own-digits}")
        like = replace(data_source("own-digits"), label="x")
        assert data_source("{kind: parquet, path: y}", like).label == "x"
        assert data_source("digits") == Digits()
        with pytest.raises(InputError, match=r"data own_m:Dat\.kind: own_m:Dat: own_m has no 'Dat'"):
            data_source("own_m:Dat")


class TestWithoutTheCode:
    @pytest.fixture
    def file(self, recipe, beside):
        place = beside / "recipe.yaml"
        place.write_text(dump(recipe))
        return place

    def test_values_are_read_and_the_recipe_is_the_same(self, file, recipe):
        found = read_values(file, Code())
        assert isinstance(found.method, UnloadedMethod) and isinstance(found.augment, UnloadedAugment)
        assert isinstance(found.data, UnloadedSource)  # the current folder is another one
        assert isinstance(found.evaluation.attacks[0].attack, UnloadedAttack)
        assert dump(found) == dump(recipe) and identity(found) == identity(recipe)
        assert differences(found, recipe) == [] and found.method.kind == "own_m:Mine"
        with pytest.raises(InputError, match=r"recipe\.yaml\.data\.kind: own_m:Data: a file may only name code"):
            found.data.open("test")

    def test_data_and_attacks_are_imported_from_the_current_folder(self, file, recipe, beside, monkeypatch):
        monkeypatch.chdir(beside)
        found = read_values(file, Code())
        assert isinstance(found.method, UnloadedMethod)
        assert found.data == recipe.data and found.evaluation == recipe.evaluation

    def test_a_run_from_elsewhere_imports_nothing(self, file, beside, monkeypatch):
        monkeypatch.chdir(beside)
        found = read_values(file, Code(imports=False))
        assert isinstance(found.data, UnloadedSource)
        with pytest.raises(InputError, match="is code that is not part of overproof"):
            found.data.open("test")

    def test_the_form_of_images_is_known_without_their_code(self, beside):
        like = UnloadedSource(kind="a:B", text={"kind": "a:B", "label": "fine"}, reason="")
        assert data_source("{kind: parquet, path: y}", like).label == "fine"


class TestStrangeClasses:
    HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from overproof.methods import Method
if TYPE_CHECKING:
    from pathlib import Path
class Thing: ...
@dataclass(frozen=True, kw_only=True)
class Odd(Method):
    kind: str = "odd"
    roles = ()
    def losses(self, step):
        yield {}
"""

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("where: Path = None", r"method: the types of the fields of own_o:Odd cannot be read \(NameError"),
            ("many: list[int] = field(default_factory=list)", "must be hashable: a tuple in the place of a list"),
            ("thing: Thing = Thing()", "method.thing: a recipe cannot say a value of the type"),
            ("must: int", "method: key 'must' is missing"),
            ("def __post_init__(self): 1 / 0", "method: making Odd raised ZeroDivisionError: division by zero"),
        ],
    )
    def test_one_sentence(self, lay, line, said):
        beside = lay("beside", own_o=f"{self.HEAD}    {line}\n")
        with pytest.raises(InputError, match=said):
            of_tree({**TREE, "data": "digits", "method": "own_o:Odd", "augment": {}, "evaluation": {}}, folder=beside)


def test_a_suite_may_name_what_lies_beside_it(beside):
    file = beside / "suite.yaml"
    file.write_text("name: s\nattacks: [{name: a, attack: {kind: 'own_m:Search'}}]\n")
    (trial,) = read_suite(file, Threat(norm="l2", eps="1/4")).attacks
    assert (trial.attack.norm, str(trial.attack.eps), trial.attack.tries) == ("l2", "1/4", 2)
    file.write_text("name: s\nattacks: [{name: a, attack: {kind: 'own_q:Search'}}]\n")
    with pytest.raises(InputError, match=r"suite\.yaml\.attacks\.0\.attack\.kind: own_q:Search: a file may only"):
        read_suite(file, Threat())
    file.write_text("name: s\nattacks: []\n")
    with pytest.raises(InputError, match="a suite needs at least one attack"):
        read_suite(file, Threat())


def test_without_permission_a_text_names_ours_alone():
    assert build_value(Method, "natural") == Natural()
    for hint in (Method, Source, BaseAttack, Augment):
        with pytest.raises(InputError, match=r"x\.kind: 'a:B' is code that is not part of overproof"):
            build_value(hint, {"kind": "a:B"}, where="x")


def test_the_standard_augmentation_may_be_named():
    assert build_value(Augment, {"kind": "standard", "crop": 2}) == build_value(Augment, {"crop": 2}) == Augment(crop=2)
    assert build_value(Augment, "standard") == Augment() and "kind" not in plain(Augment())


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    more: dict[str, int] = field(default_factory=dict)


def test_values_go_to_text_and_back():
    value = Inner(sizes=(3,), more={"a": 1})
    assert plain(value) == {"sizes": [3], "more": {"a": 1}} and build_value(Inner, plain(value)) == value
    assert dict(leaves(plain(value))) == {"sizes": [3], "more.a": 1}
    assert list(hints(Inner)) == ["sizes", "more"] and alternatives(Inner) == {"Inner": Inner}
    assert set(alternatives(Source)) == set(DATA.ours())
    assert Code().load
