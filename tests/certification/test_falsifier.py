import pytest
import torch
from torch import nn

from overproof.certification.falsifier import falsify
from overproof.certification.query import Case


def case(bias):
    """The sum of two numbers of [2, 3] is at least ``-bias``."""
    box = torch.full((2,), 2.0).double(), torch.full((2,), 3.0).double()
    return Case(*box, torch.ones(1, 1).double(), torch.tensor([bias]).double())


def summing():
    network = nn.Linear(2, 1, bias=False).requires_grad_(False)
    nn.init.ones_(network.weight)
    return network


@pytest.mark.parametrize("gradients", [True, False])
def test_it_finds_the_case_that_can_be_met(gradients):
    network = summing()
    ask = network if gradients else lambda x: network(x)
    found = falsify(ask, [case(-6.5), case(-5.9)], seconds=60, confirm=lambda *_: True)
    assert (found.decision, found.case) == ("sat", 1)
    assert found.witness.dtype == torch.float32 and float(found.witness.sum()) >= 5.9


def test_what_is_not_confirmed_is_not_believed_and_the_time_ends():
    asked = []

    def confirm(number, x):
        asked.append((number, x.shape))
        return False

    assert falsify(summing(), [case(-5.0)], seconds=0.2, confirm=confirm).decision == "unknown"
    assert asked and set(asked) == {(0, (2,))}
    assert falsify(summing(), [case(-5.0)], seconds=0.0, confirm=confirm).decision == "unknown"


@pytest.mark.parametrize("gradients", [True, False])
def test_a_case_without_rows_is_met_by_any_input(gradients):
    free = Case(
        *(torch.full((2,), side).double() for side in (2.0, 3.0)), torch.zeros(0, 1).double(), torch.zeros(0).double()
    )
    network = summing()
    found = falsify(network, [case(-6.5), free], seconds=60, confirm=lambda number, _: number == 1)
    assert (found.decision, found.case) == ("sat", 1)


def test_searches_that_start_apart_find_what_lies_apart():
    """A narrow peak in one corner of a box, and a broad one that no input of it suffices in the other."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).requires_grad_(False)
    network[0].weight.copy_(torch.tensor([[1.0, 1], [-1, -1], [-4, -4], [0, 0]]))
    network[0].bias.copy_(torch.tensor([0.0, 0, -7.2, 0]))
    network[2].weight.copy_(torch.tensor([[1.0, 0.1, 5, 0], [0, 0, 0, 0], [0, 1, 0, 0]]))
    network[2].bias.zero_()
    box = Case(
        torch.full((2,), -1.0).double(),
        torch.full((2,), 1.0).double(),
        torch.tensor([[1.0, 0, 0]]).double(),
        torch.tensor([-2.1]).double(),
    )
    found = falsify(network, [box], seconds=60, confirm=lambda _, x: float(network(x)[0]) >= 2.1)
    assert found.decision == "sat" and float(found.witness.sum()) < -1.8
