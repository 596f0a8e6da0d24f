"""Whatever a forward stores, the network is given back as it was."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from overproof.models.unchanged import unchanged


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros(()))
        self.last, self.listed, self.named, self.counted = None, [1], {"a": [1]}, {1}
        self.recent, self.box, self.deep = deque([1], maxlen=3), SimpleNamespace(x=1), ([],)


def attribute(network):
    network.last = 5


def new_attribute(network):
    network.other = 5


def deleted_attribute(network):
    del network.last


def inner_attribute(network):
    network.inner.kept = 5


def replaced_buffer(network):
    network.count = torch.ones(())


def buffer_in_place(network):
    network.count += 1


def parameter_in_place(network):
    with torch.no_grad():
        network.inner.weight.mul_(2)


def new_module(network):
    network.more = nn.Linear(1, 1)


def in_a_list(network):
    network.listed.append(5)


def in_place_of_another(network):
    network.listed[0] = 5


def in_a_dictionary(network):
    network.named["b"] = 5


def in_a_list_in_a_dictionary(network):
    network.named["a"].append(5)


def in_a_set(network):
    network.counted.add(5)


def in_a_queue(network):
    network.recent.appendleft(5)


def in_an_object(network):
    network.box.x = 5


def in_a_list_in_a_tuple(network):
    network.deep[0].append(5)


def a_hook(network):
    network.register_forward_hook(lambda *_: None)


CHANGES = (
    attribute,
    new_attribute,
    deleted_attribute,
    inner_attribute,
    replaced_buffer,
    buffer_in_place,
    parameter_in_place,
    new_module,
    in_a_list,
    in_place_of_another,
    in_a_dictionary,
    in_a_list_in_a_dictionary,
    in_a_set,
    in_a_queue,
    in_an_object,
    in_a_list_in_a_tuple,
    a_hook,
)


def described(network):
    """Return everything the network holds, tensors as lists."""

    def plain(thing):
        match thing:
            case torch.Tensor():
                return id(thing), thing.tolist()
            case dict():
                return [(key, plain(value)) for key, value in thing.items()]
            case list() | tuple() | set() | deque():
                return [plain(each) for each in thing]
            case nn.Module() | SimpleNamespace():
                return plain(vars(thing))
        return thing

    return plain(network)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_it_is_given_back_as_it_was(change):
    network = Keeping()
    before, at_all = described(network), described(network)
    with unchanged(network):
        change(network)
        at_all = described(network)
    assert at_all != before
    assert described(network) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_it_is_given_back_after_an_error_too(change):
    network = Keeping()
    before = described(network)
    with pytest.raises(ZeroDivisionError), unchanged(network):
        change(network)
        raise ZeroDivisionError
    assert described(network) == before


def test_weights_that_did_not_change_are_not_written():
    """A gradient that is to come would not find the weights that it was computed with."""
    network = Keeping()
    loss = network.inner(torch.ones(1, 2, requires_grad=True)).sum()
    with unchanged(network):
        network.inner(torch.ones(1, 2))
    loss.backward()
    assert network.inner.weight.grad is not None


def test_weights_of_inference_are_left_alone():
    with torch.inference_mode():
        network = Keeping()
    with unchanged(network):
        network.last = 5
    assert network.last is None


def test_a_network_that_refers_to_itself_is_given_back():
    network = Keeping()
    network.named["self"] = network.named
    with unchanged(network):
        network.named["b"] = 5
    assert set(network.named) == {"a", "self"}
