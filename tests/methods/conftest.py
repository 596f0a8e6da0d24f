"""A slow and obvious twin of the search, written from Madry et al. (2018) and not from our code."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def slow_pgd():
    """Return linf PGD on a copy of the network in eval mode: uniform start, clipped, steps of 2.5 eps / steps."""

    def search(student, x, y, eps, steps):
        network = deepcopy(student).eval()
        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clip(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            F.cross_entropy(network(x_adv), y, reduction="sum").backward()
            with torch.no_grad():
                moved = x_adv + 2.5 * eps / steps * x_adv.grad.sign()
                x_adv = (x + (moved - x).clip(-eps, eps)).clip(0, 1)
        return x_adv.detach()

    return search


@pytest.fixture
def answers():
    """Return a function that asks a copy of the network in train mode: BatchNorm statistics of the original stay."""
    return lambda network, x: deepcopy(network)(x)


@pytest.fixture
def only():
    """Return a function that runs a method of one update and returns its terms."""

    def run(method, step, seed=9):
        torch.manual_seed(seed)
        (terms,) = method.losses(step)
        return terms

    return run
