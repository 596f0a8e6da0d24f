import pytest
import torch
from torch import nn

from overproof.evaluation.falsifier import falsify
from overproof.evaluation.verifier import Case


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
    found = falsify(summing(), [case(-6.5), case(-5.9)], seconds=60, confirm=lambda *_: True, gradients=gradients)
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
