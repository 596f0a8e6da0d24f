import pytest
import torch

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD
from overproof.methods.fast_at import FastAT
from overproof.methods.kd import KD
from overproof.methods.pgd_at import PGDAT
from overproof.methods.rrm import RRM
from overproof.methods.witness import Recorded, RecordingNetwork, Repeated, as_classifier, recorded, search_of

from .by_hand import ADV, X, ce, counting, network

SEARCH = PGD(steps=3, start="none", eps=Radius("0.1"), ramp=0.5)


@pytest.mark.parametrize("kind", [Recorded, Repeated])
def test_searches_are_equal_by_their_options_alone(kind):
    one, other = (kind(steps=3, searched=[torch.zeros(seed + 1)]) for seed in range(2))
    assert one == other and hash(one) == hash(other) and repr(one) == repr(other)
    assert one != kind(steps=4) and one != PGD(steps=3)
    assert "searched" not in repr(one)


@pytest.mark.parametrize("kind", [Recorded, Repeated])
def test_a_ramped_search_still_records_into_the_same_list(kind):
    searched = []
    search = kind(steps=3, ramp=0.5, searched=searched).at(0.25)
    assert type(search) is kind and search.searched is searched
    assert search.eps == pytest.approx(PGD().eps / 2) and search.ramp == 0


def test_a_recorded_search_finds_what_the_search_finds():
    student, searched = network(), []
    search = recorded(PGDAT(inner=SEARCH), searched).inner

    def objective(x):
        return ce(student(x))

    for progress in (0.25, 1.0):
        adv = search.at(progress)(student, X, objective)
        assert torch.equal(adv, SEARCH.at(progress)(student, X, objective)) and searched[-1] is adv
    assert len(searched) == 2


def test_a_repeated_search_asks_nobody():
    searched = [X, ADV]
    search = recorded(PGDAT(inner=SEARCH), searched, repeat=True).inner
    assert search.at(0.1).search(None, None, None) is ADV and len(searched) == 2


@pytest.mark.parametrize("method", [PGDAT(inner=SEARCH), AdaAD(alpha=0.3, inner=SEARCH), FastAT(reach=2.0)])
def test_a_recorded_method_differs_in_its_search_alone(method):
    watched = recorded(method, [])
    assert type(watched) is type(method) and type(watched.inner) is Recorded
    parts = {name: value for name, value in vars(watched).items() if name != "inner"}
    assert parts == {name: value for name, value in vars(method).items() if name != "inner"}
    options = {name: value for name, value in vars(watched.inner).items() if name != "searched"}
    assert options == vars(method.inner)
    assert search_of(watched) == watched.inner


def test_search_of():
    assert search_of(PGDAT(inner=SEARCH)) is SEARCH
    assert search_of(KD()) is None and search_of(RRM()) is None


def test_a_witness_remembers_the_answer_to_what_was_found_last():
    net, searched = network(), []
    witness = RecordingNetwork(net, searched)
    asked = counting(net)
    assert torch.equal(witness(X), net(X)) and witness.answer is None
    searched.append(ADV)
    witness(ADV.clone())  # equal, but another tensor: nothing is known about it
    assert witness.answer is None
    answer = witness(ADV)
    assert witness.answered() is answer and len(asked) == 4


def test_a_witness_asks_where_nobody_has():
    net = network()
    witness, asked = RecordingNetwork(net, [ADV]), counting(net)
    first = witness.answered()
    assert torch.equal(first, net(ADV)) and witness.answered() is first and len(asked) == 2


def test_a_witness_answers_what_a_network_answers():
    net = network()
    witness = as_classifier(RecordingNetwork(net, []))
    for ours, theirs in zip(witness.features(X), net.features(X), strict=True):
        assert torch.equal(ours, theirs)
    assert [id(weight) for weight in witness.parameters()] == [id(weight) for weight in net.parameters()]
