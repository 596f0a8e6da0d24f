import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Threat
from overproof.attacks.fab import FAB
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.pgd import PGD
from overproof.attacks.radius import NORMS, Radius, is_zero, radius_or_none, read_norm
from overproof.attacks.square import Square
from overproof.errors import InputError
from overproof.recipe import hints, plain

CLASSES = [PGD, APGD, FAB, Square, HopSkipJump, Threat]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("written", ["8/255", 8 / 255, Radius("8/255"), "0.03", 0.5])
def test_an_eps_is_a_radius_however_it_is_given(cls, written):
    made = cls(eps=written)
    assert type(made.eps) is Radius and made.eps == Radius(written)
    assert str(made.eps) == str(written)
    assert type(made.eps) is type(cls().eps) is type(cls.eps) and cls().eps == Radius("8/255")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("written", ["linf", "Linf", "LINF", "L2", "l2"])
def test_a_norm_may_be_written_in_capitals(cls, written):
    made = cls(norm=written)
    assert made.norm == written.lower() and made == cls(norm=written.lower())
    assert hash(made) == hash(cls(norm=written.lower()))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("eps", ["-1/255", "0", "eight", "1/0", float("nan"), float("inf"), "", None, 8])
def test_a_length_that_cannot_be_meant_is_refused_in_one_sentence(cls, eps):
    with pytest.raises(InputError) as found:
        cls(eps=eps)
    assert "\n" not in str(found.value) and len(str(found.value)) < 200


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("norm", ["l3", "inf", "", 2, None])
def test_a_norm_that_there_is_not_is_refused(cls, norm):
    with pytest.raises(InputError, match="there is no norm"):
        cls(norm=norm)


def test_every_norm_is_read_as_itself():
    assert [read_norm(norm) for norm in NORMS] == list(NORMS)


def test_a_step_may_be_text_a_number_or_none():
    assert PGD().step is None and PGD.step is None
    assert PGD(step="2/255").step == Radius("2/255") and type(PGD(step=0.1).step) is Radius
    assert PGD(step="2/255") == PGD(step=2 / 255)
    with pytest.raises(InputError, match="cannot read 'x' as a length"):
        PGD(step="x")


def test_values_stay_frozen_and_survive_copies():
    attack = PGD(eps="4/255", step="1/255", norm="L2")
    with pytest.raises(FrozenInstanceError):
        attack.eps = "1/255"
    for other in (copy.deepcopy(attack), copy.copy(attack), pickle.loads(pickle.dumps(attack)), replace(attack)):
        assert other == attack and str(other.eps) == "4/255" and other.norm == "l2"
    assert replace(attack, eps="1/255").step == attack.step
    assert repr(PGD()).startswith("PGD(kind='pgd', norm='linf', eps=Radius('8/255'), step=None,")


def test_a_recipe_knows_the_type_of_what_is_kept():
    assert hints(PGD)["eps"] is Radius and hints(PGD)["step"] == Radius | None
    assert plain(PGD(eps="4/255"))["eps"] == "4/255"
    assert [field.default for field in fields(PGD)[1:4]] == ["linf", Radius("8/255"), None]


@pytest.mark.parametrize("written", ["0", 0, 0.0, "0/255", " 0.00 "])
def test_a_length_of_zero_only_where_it_may_be(written):
    none = radius_or_none(written)
    assert is_zero(written) and str(none) == "0" and torch.tensor([float(none)]).item() == 0
    with pytest.raises(InputError, match="must be positive"):
        Radius(written)
    assert none == Radius(none) == copy.deepcopy(none) == pickle.loads(pickle.dumps(none))
    assert str(Radius(none)) == "0"


@pytest.mark.parametrize("written", ["8/255", 0.1, "-1", "x", "1/0"])
def test_what_is_no_zero(written):
    assert not is_zero(written)
