import sys

import pytest
import torch

from overproof.attacks.ball import Threat
from overproof.attacks.base import BaseAttack
from overproof.attacks.suites import ATTACKS, SUITES
from overproof.building import METHODS
from overproof.errors import InputError
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.registry import Registry, a_class_of, is_word
from overproof.trust import Code

OWN = Code(own=True)
HEAD = """
from dataclasses import dataclass
from overproof.methods import Method
"""
SOFT = f"""{HEAD}
@dataclass(frozen=True, kw_only=True)
class Soft(Method):
    '''Soft.'''
    kind: str = "soft"
    roles = ()
    def losses(self, step):
        yield {{"label": step.student(step.x).square().mean()}}
"""


def find(name, code=OWN, registry=METHODS):
    return registry.find(name, where="r.yaml.method.kind", code=code)


def refused(name, code=OWN, registry=METHODS):
    with pytest.raises(InputError) as found:
        find(name, code, registry)
    said = str(found.value)
    assert said.startswith("r.yaml.method.kind: ")
    return said.removeprefix("r.yaml.method.kind: ")


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_ours_come_first_and_need_no_permission(install):
    install("rival", {"methods": "natural = rival:Gone"})
    assert find("natural", code=None) is METHODS["natural"] is Natural
    said = METHODS.installed()["natural (rival)"]
    assert said == ("the package rival names rival:Gone as overproof's own 'natural' is; it can be had by rival:Gone")


def test_an_entry_point_is_found_by_its_name(install):
    install("mine", {"methods": "soft = own_a:Soft"}, own_a=SOFT)
    assert "soft" in METHODS and "soft" in METHODS.names() and "own_a" not in sys.modules
    found = find("soft", Code(where="r.yaml"))
    assert issubclass(found, Method) and found.__module__ == "own_a"
    assert METHODS.word(found) == "soft" and METHODS["soft"] is found
    assert list(METHODS)[-1] == "soft" and len(METHODS) == len(METHODS.ours()) + 1
    assert find("own_a:Soft", Code(where="r.yaml")) is found


def test_a_word_is_found_beside_the_file_or_here_and_nowhere_else(lay, here):
    folder = lay("beside", own_b=SOFT)
    found = find("own_b:Soft", Code(where="r.yaml", folders=(folder,)))
    assert METHODS.word(found) == "own_b:Soft"
    assert str(folder) not in sys.path
    assert refused("own_c:Soft", Code(where="r.yaml", folders=(folder,))) == (
        "own_c:Soft: a file may only name code that lies beside it or in the current folder (there is no 'own_c' in "
        f"{folder}, {here / 'here'}); where you trust it, add --trust-code"
    )
    assert refused("own_c:Soft") == f"own_c:Soft: there is no module 'own_c' in {here / 'here'}, nor is one installed"
    assert "installed" in refused("own_c.deep:Soft", Code(where="r.yaml", trust_code=True))


def test_a_module_that_sets_torchs_default_type_changes_nothing_else(lay, here):
    lay("here", double_soft=f"import torch\ntorch.set_default_dtype(torch.float64)\n{SOFT}")
    assert find("double_soft:Soft").kind == "soft"
    assert torch.get_default_dtype() == torch.float32


def test_a_stranger_may_name_ours_alone(install):
    install("mine", {"methods": "soft = own_a:Soft"}, own_a=SOFT)
    for name in ("soft", "own_a:Soft"):
        assert "is code that is not part of overproof" in refused(name, None)
    assert "own_a" not in sys.modules


def test_the_standard_library_is_nothing_that_a_file_may_name():
    assert "standard library" in refused("os:abort", Code(where="r.yaml", trust_code=True))
    assert "a method is a class derived from overproof.methods.Method" in refused("os:abort")


def test_a_name_that_nothing_has(install):
    install("mine", {"methods": "softer = own_a:Soft"}, own_a=SOFT)
    assert refused("softr") == "there is no 'softr' (did you mean 'softer'?)"
    assert refused("zzzzzz").endswith("; no installed package brings one of this name")
    with pytest.raises(KeyError):
        METHODS["zzzzzz"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("Soft = 5", "this is an object of type int; a method is a class derived from"),
        ("def Soft(): ...", "this is an object of type function; a method is a class derived from"),
        ("class Soft: ...", "this is the class Soft; a method is a class derived from"),
        (f"{HEAD}class Soft(Method):\n    kind = 'soft'", "this method does not define losses"),
        (
            f"{HEAD}class Soft(Method):\n    kind = 'soft'\n    def losses(self, step): yield",
            "this method is not a dataclass; put @dataclass(frozen=True, kw_only=True) above the class",
        ),
        (
            f"{HEAD}@dataclass\nclass Soft(Method):\n    kind: str = 'soft'\n    def losses(self, step): yield",
            "this method is a dataclass that is not frozen; put @dataclass(frozen=True, kw_only=True) above the class",
        ),
        (
            f"{HEAD}@dataclass(frozen=True)\nclass Soft(Method):\n    def losses(self, step): yield",
            "this method does not say its kind; add the field: kind: str = 'soft'",
        ),
        (
            f"{HEAD}@dataclass(frozen=True)\nclass Soft(Method):\n    kind: str\n    def losses(self, step): yield",
            "this method does not say its kind",
        ),
        (
            SOFT.replace("roles = ()", "roles = 'robust'"),
            "roles and auxiliary models are tuples of names, such as roles = (",
        ),
        (SOFT.replace('"soft"', '"kd"'), "its kind 'kd' is that of a method of overproof; choose another"),
        ("class Sof: ...", "own_x has no 'Soft' (did you mean 'Sof'?)"),
        ("import absent_package", "importing own_x raised ModuleNotFoundError: No module named 'absent_package'"),
        ("1 / 0", "importing own_x raised ZeroDivisionError: division by zero"),
        ("def (", "importing own_x raised SyntaxError"),
        ("raise SystemExit(3)", "importing own_x raised SystemExit: 3"),
        (f"{SOFT}\nclass Deep(Soft): ...\nSoft = Deep", "this method is not a dataclass"),
    ],
)
def test_what_is_no_method(lay, here, body, said):
    lay("here", own_x=body)
    assert refused("own_x:Soft").startswith("own_x:Soft: ")
    assert said in refused("own_x:Soft")


def test_an_attack_needs_norm_and_eps(lay, here):
    text = """
from dataclasses import dataclass
from overproof.attacks import BaseAttack
@dataclass(frozen=True)
class Weak(BaseAttack):
    kind: str = "weak"
    norm: str = "linf"
    def search(self, model, x, objective): return x
"""
    lay("here", own_w=text)
    assert refused("own_w:Weak", registry=ATTACKS) == "own_w:Weak: this attack has no field 'eps'"


def test_an_entry_point_that_fails_leaves_the_others(install):
    install(
        "mine",
        {"methods": "bad = own_bad:Soft\nsoft = own_a:Soft\nother = own_a:Soft\ngone = own_gone:Soft"},
        own_a=SOFT,
        own_bad="1 / 0",
    )
    assert find("soft").__name__ == "Soft"
    assert refused("bad") == (
        "'bad' of the package mine: own_bad:Soft: importing own_bad raised ZeroDivisionError: division by zero"
    )
    assert "own_a:Soft is of kind 'soft'; the entry point must have the same name" in refused("other")
    installed = METHODS.installed()
    assert list(installed) == ["bad", "gone", "other", "soft"] and not isinstance(installed["soft"], str)
    assert installed["bad"].startswith("'bad' of the package mine: own_bad:Soft: importing own_bad raised")
    assert "there is no module 'own_gone' in" in installed["gone"]
    assert set(METHODS) == {*METHODS.ours(), "soft"}


def test_two_packages_of_one_name_are_both_named(install):
    install("mine", {"methods": "soft = own_a:Soft"}, own_a=SOFT)
    install("yours", {"methods": "soft = own_d:Soft"}, own_d=SOFT)
    assert refused("soft") == (
        "two installed packages have a method 'soft', mine and yours; write own_a:Soft or own_d:Soft"
    )
    assert find("own_d:Soft", Code(where="r.yaml")).__module__ == "own_d"


def test_a_module_that_python_has_from_elsewhere_is_not_taken_for_the_one_that_was_checked(lay, here):
    one, two = lay("one", own_e=SOFT), lay("two", own_e=SOFT)
    find("own_e:Soft", Code(where="r.yaml", folders=(one,)))
    said = refused("own_e:Soft", Code(where="r.yaml", folders=(two,)))
    assert said.startswith(f"own_e:Soft: Python has another module 'own_e' already, {one / 'own_e.py'}")


def test_the_word_of_a_class_that_nobody_can_name_is_where_it_is():
    class Local(Natural):
        pass

    assert METHODS.word(Local).endswith("<locals>.Local") and METHODS.word(Natural) == "natural"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a:B", True), ("a.b:C", True), ("ab", False), ("timm:x", False), ("a:b c", False), (":a", False)],
)
def test_which_names_are_words(name, expected):
    assert is_word(name) == expected
    assert (name in METHODS) == expected


SUITE = """
from overproof.attacks import AttackSpec, Suite
def mine(threat):
    '''Return one trial.'''
    return Suite(name="mine", attacks=(AttackSpec(name="pgd"),))
def empty(threat): return Suite(name="empty", attacks=())
def nothing(threat): ...
def broken(threat): return 1 / 0
"""


def test_a_suite_is_a_function_of_the_threat(install):
    names = ("mine", "empty", "nothing", "broken")
    install("mine", {"suites": "\n".join(f"{name} = own_s:{name}" for name in names)}, own_s=SUITE)
    threat = Threat(norm="l2", eps="1/2")
    (trial,) = SUITES["mine"](threat).attacks
    assert (trial.attack.norm, str(trial.attack.eps)) == ("l2", "1/2")
    assert SUITES["own_s:mine"](threat) == SUITES["mine"](threat)
    for name, said in (
        ("empty", "own_s:empty returned a suite without attacks; return a Suite"),
        ("nothing", "own_s:nothing returned None; return a Suite"),
        ("broken", "own_s:broken raised ZeroDivisionError: division by zero"),
    ):
        with pytest.raises(InputError, match=said):
            SUITES[name](threat)
    with pytest.raises(InputError, match="this is the class Suite; a suite is a function"):
        SUITES["own_s:Suite"]


def test_a_registry_of_nothing_is_empty():
    registry = Registry[type](  # a group that no package has
        "overproof.nothing", "thing", dict, a_class_of(BaseAttack, "thing")
    )
    assert len(registry) == 0 and list(registry) == [] and registry.installed() == {}
