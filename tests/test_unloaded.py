import pytest
import torch

from overproof.attacks.ball import Threat
from overproof.attacks.base import BaseAttack
from overproof.attacks.suites import AttackSpec, Suite
from overproof.building import plain
from overproof.data.augment import Augment
from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.methods.method import Method, Step
from overproof.unloaded import make_stand_in

TEXT = {"kind": "own:Mine", "a": [1, 2], "norm": "l2", "eps": "1/4"}


@pytest.mark.parametrize("base", [Method, Augment, Source, BaseAttack])
def test_it_is_written_as_it_was_read(base):
    found = make_stand_in(base, TEXT, "why")
    assert isinstance(found, base) and plain(found) == TEXT and found.kind == "own:Mine"


def test_whoever_needs_it_hears_why():
    x = torch.zeros(1, 1, 2, 2)
    for work in (
        lambda: make_stand_in(Method, TEXT, "why").losses(Step(x=x, y=x[0], student=None)),
        lambda: make_stand_in(Augment, TEXT, "why")(x, torch.Generator()),
        lambda: make_stand_in(Source, TEXT, "why").open("test"),
        lambda: make_stand_in(Source, TEXT, "why").load("test"),
        lambda: make_stand_in(BaseAttack, TEXT, "why").search(None, x, None),
    ):
        with pytest.raises(InputError, match=r"^why$"):
            work()


def test_an_attack_is_missed_before_the_suite_begins():
    attack = make_stand_in(BaseAttack, TEXT, "why")
    assert (attack.norm, str(attack.eps)) == ("l2", "1/4")
    suite = Suite(name="s", attacks=(AttackSpec(name="a", attack=attack),))
    with pytest.raises(InputError, match=r"^why$"):
        suite.under(Threat(norm="l2", eps="1/4"))
