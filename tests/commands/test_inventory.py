import pytest

from overproof.attacks.suites import ATTACKS, SUITES
from overproof.building import SOURCES
from overproof.commands.inventory import inventory
from overproof.errors import InputError
from overproof.methods.catalogue import methods
from overproof.models.architectures.catalogue import FAMILIES, NAMED
from overproof.shipped import recipe_names


@pytest.mark.parametrize("what", ["methods", "attacks", "models", "datasets", "augmentations", "recipes"])
def test_every_room_has_names_with_one_line_each(what):
    found = inventory(what)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names) > 0
    assert not any("\n" in line for _, line in found)
    assert what == "recipes" or all(line for _, line in found)


def test_nothing_is_left_out():
    assert {name for name, _ in inventory("methods")} == set(methods())
    assert {name for name, _ in inventory("models")} == {*FAMILIES, *NAMED}
    assert {name for name, _ in inventory("datasets")} == set(SOURCES)
    assert [name for name, _ in inventory("recipes")] == recipe_names()
    attacks = [name for name, _ in inventory("attacks")]
    suites = ["standard", "quick", "shipped", "mtard", "rrm", "rrm-l2"]
    assert attacks == ["pgd", "apgd", "fab", "square", "hopskipjump", *suites]
    assert set(attacks) >= set(ATTACKS) | set(SUITES)


def test_a_method_says_whom_it_listens_to_and_what_it_costs():
    found = dict(inventory("methods"))
    assert found["natural"].endswith("Teachers: none. Per batch: student 1 forward, 1 backward.")
    assert found["ard"].endswith(
        "Teachers: robust. Per batch: student 11 forward, 11 backward; robust 1 forward, 0 backward."
    )


def test_what_packages_bring_is_listed_and_what_cannot_be_used_says_why(install):
    text = """
from dataclasses import dataclass
from overproof.methods import Method
@dataclass(frozen=True, kw_only=True)
class Good(Method):
    '''Does good.'''
    kind: str = "good"
    roles = ()
    def losses(self, step):
        yield {"label": step.student(step.x).square().mean()}
@dataclass(frozen=True, kw_only=True)
class Needs(Good):
    '''Needs an option.'''
    kind: str = "needs"
    share: float
"""
    points = "bad = own_none:Bad\ngood = own_l:Good\nneeds = own_l:Needs\nkd = own_l:Good"
    install("mine", {"methods": points, "models": "net = own_l:net\nmlp = own_l:net"}, own_l=text)
    found = dict(inventory("methods"))
    assert found["good"] == (
        "Does good. Teachers: none. Per batch: student 1 forward, 1 backward. Of the package mine."
    )
    assert found["needs"].startswith("Needs an option. Its cost was not measured (TypeError: ")
    assert found["bad"].startswith("Cannot be used: 'bad' of the package mine: own_none:Bad: there is no module")
    assert found["kd (mine)"].startswith("Cannot be used: the package mine names own_l:Good as overproof's own 'kd' is")
    assert found["kd"].startswith("Distillation") or "Of the package" not in found["kd"]
    models = inventory("models")
    assert ("net", "own_l:net, of the package mine.") in models
    assert ("mlp", "own_l:net, of the package mine by this word alone: the name is one of overproof's own.") in models


def test_a_misspelt_room():
    with pytest.raises(InputError) as caught:
        inventory("method")
    assert str(caught.value) == "there is no list of 'method' (did you mean 'methods'?)"


def test_a_suite_says_what_it_is_and_its_own_threat():
    found = dict(inventory("attacks"))
    assert (
        found["rrm"]
        == "Suite: the RRM paper's attack on CIFAR-10 images: APGD on cross-entropy, 50 steps, 10 restarts."
    )
    assert found["rrm-l2"] == f"{found['rrm']} l2 eps 1.0."
