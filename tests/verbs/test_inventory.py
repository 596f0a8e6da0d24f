from typing import get_args

import pytest

from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.evaluation.trial import SUITES, Search
from overproof.methods.catalogue import methods
from overproof.models.catalogue import FAMILIES, NAMED
from overproof.shipped import recipe_names
from overproof.verbs.inventory import inventory


@pytest.mark.parametrize("room", ["methods", "attacks", "models", "datasets", "recipes"])
def test_every_room_has_names_with_one_line_each(room):
    found = inventory(room)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names) > 0
    assert not any("\n" in line for _, line in found)
    assert room == "recipes" or all(line for _, line in found)


def test_nothing_is_left_out():
    assert {name for name, _ in inventory("methods")} == set(methods())
    assert {name for name, _ in inventory("models")} == {*FAMILIES, *NAMED}
    assert {name for name, _ in inventory("datasets")} == {source.kind for source in Source.__subclasses__()}
    assert [name for name, _ in inventory("recipes")] == recipe_names()
    attacks = [name for name, _ in inventory("attacks")]
    suites = ["standard", "quick", "shipped", "mtard", "rrm", "rrm-l2"]
    assert attacks == ["pgd", "apgd", "fab", "square", "hopskipjump", *suites]
    assert set(attacks) >= {search.kind for search in get_args(Search)} | set(SUITES)


def test_a_method_says_whom_it_listens_to_and_what_it_costs():
    found = dict(inventory("methods"))
    assert found["natural"].endswith("Teachers: none. Per batch: student 1 forward, 1 backward.")
    assert found["ard"].endswith(
        "Teachers: robust. Per batch: student 11 forward, 11 backward; robust 1 forward, 0 backward."
    )


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
