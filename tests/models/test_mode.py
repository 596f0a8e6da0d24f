import pytest
import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.models.mode import compiled_for_pixels, default_type_kept, in_mode, no_gradient, put_into_mode


@pytest.fixture
def network():
    """Return nested modules in train mode, but for one BatchNorm that its owner froze."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), nn.BatchNorm1d(2))
    network[1][0].eval()
    return network


@pytest.mark.parametrize("training", [True, False])
def test_every_submodule_is_in_the_mode_and_then_as_before(training, network, modes):
    before = modes(network)
    with in_mode(network, training=training):
        assert set(modes(network).values()) == {training}
    assert modes(network) == before
    assert before["1.0"] is False and before["2"] is True


def test_an_exception_passes_and_the_mode_comes_back(network, modes):
    before = modes(network)
    with pytest.raises(KeyError, match="lost"), in_mode(network, training=False):
        raise KeyError("lost")
    assert modes(network) == before


def test_it_nests(network, modes):
    before = modes(network)
    with in_mode(network, training=False):
        with in_mode(network, training=True):
            assert network[1][0].training
        assert not network.training and not network[1][0].training
    assert modes(network) == before


def test_what_the_body_changes_is_undone_too(network, modes):
    before = modes(network)
    with in_mode(network, training=False):
        network[2].train()
    assert modes(network) == before


def test_a_pass_without_a_gradient_takes_none_from_those_that_follow():
    network, x = nn.Linear(2, 2), torch.rand(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with no_gradient():
            assert not network(x).requires_grad and not torch.is_autocast_cache_enabled()
        assert torch.is_autocast_cache_enabled() and torch.is_grad_enabled()
        network(x).sum().backward()
        with pytest.raises(KeyError), no_gradient():
            raise KeyError
        assert torch.is_autocast_cache_enabled() and torch.is_grad_enabled()
    assert network.weight.grad.abs().sum() > 0


@pytest.fixture
def pair():
    """Return a compiled and a plain network in one model, each with one weight that its owner froze."""
    pair = nn.ModuleList([nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2)])
    pair[0].compile(backend="eager")
    for network in pair:
        network[1].bias.requires_grad_(False)
    yield pair
    torch.compiler.reset()


def test_only_compiled_networks_need_no_gradient_meanwhile(pair):
    def learning():
        return [value.requires_grad for value in pair.parameters()]

    with compiled_for_pixels(pair):
        assert learning() == [False, False, True, False]
    assert learning() == [True, False, True, False]
    with pytest.raises(KeyError), compiled_for_pixels(pair):
        raise KeyError
    assert learning() == [True, False, True, False]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_search_asks_a_compiled_network_for_the_gradient_to_the_pixels_alone(mode, pair):
    seen = []

    def objective(network, x):
        seen.append(network[1].weight.requires_grad)
        return network(x).square().sum(dim=1)

    x, found = torch.rand(2, 1, 2, 2), []
    pair[0].load_state_dict(pair[1].state_dict())
    for network in pair:
        torch.manual_seed(0)
        found.append(PGD(steps=2, mode=mode)(network, x, lambda z, network=network: objective(network, z)))
    assert seen == [False, False, True, True]
    assert torch.equal(*found)
    assert pair[0][1].weight.requires_grad


class Fixed(nn.Module):
    """As a ``torch.export`` program: it has one mode, and says so."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def train(self, mode=True):
        raise NotImplementedError


def test_a_part_that_has_one_mode_keeps_it_and_the_others_change():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Fixed(), nn.Dropout()))
    put_into_mode(network, training=False)
    assert [module.training for module in (network, network[0], network[1], network[1][1])] == [False] * 4
    assert network[1][0].norm.training
    with in_mode(network, training=True):
        assert network[1][1].training
    assert not network[1][1].training


def test_the_default_type_comes_back_also_where_something_is_raised():
    with pytest.raises(ZeroDivisionError), default_type_kept() as kept:
        torch.set_default_dtype(torch.float64)
        raise ZeroDivisionError
    assert kept.changed and torch.get_default_dtype() == torch.float32
    with default_type_kept() as kept:
        pass
    assert not kept.changed
