import pytest
from torch import nn

from overproof.models.mode import in_mode


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
