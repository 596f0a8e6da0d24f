import torch
from torch import nn

from overproof.attacks.box import search_box

LOW, HIGH = torch.full((1, 3, 4), -3.0), torch.full((1, 3, 4), 5.0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).requires_grad_(False)


def searched(ask, weight, bias, **options):
    return search_box(ask, LOW, HIGH, weight, bias, torch.Generator().manual_seed(0), **options)


def test_it_finds_more_than_its_starts_and_stays_in_the_box():
    ask, weight = network(), torch.tensor([[1.0, -1, 0], [0, -1, 1]])
    bias = torch.full((2,), -1e6)  # never enough, so that it maximises to its end
    x, score = searched(ask, weight, bias)
    _, before = searched(ask, weight, bias, steps=0)
    assert (score > before).all()
    assert (x >= LOW).all() and (x <= HIGH).all()
    torch.testing.assert_close(score, (ask(x) @ weight.T + bias).amin(dim=1))


def test_of_a_linear_network_it_finds_the_corner():
    """The sum of all numbers is largest at the upper corner alone."""
    summed = lambda x: x.flatten(1).sum(dim=1, keepdim=True)  # noqa: E731
    x, score = searched(summed, torch.ones(1, 1), torch.tensor([-60.0]), steps=400)
    assert float(score.max()) == 0 and torch.equal(x[score.argmax()], HIGH)


def test_what_is_no_number_satisfies_nothing():
    _, score = searched(lambda x: x.flatten(1)[:, :1] * torch.nan, torch.ones(1, 1), torch.zeros(1))
    assert (score == -torch.inf).all()
