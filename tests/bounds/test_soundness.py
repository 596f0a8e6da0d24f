"""A small part of ``benchmarks.soundness``: no bound is above what is attained, and no planted image is proved away."""

import pytest
import torch
from benchmarks.soundness import along, ask, question, searched

SEEDS = range(0, 60, 10)


@pytest.mark.parametrize("first", SEEDS)
def test_no_bound_is_above_a_value_that_is_attained(first):
    for number in range(first, first + 10):
        asked = question(number)
        low, high = (asked.image - asked.eps).clamp(min=0), (asked.image + asked.eps).clamp(max=1)
        assert (low <= asked.planted).all() and (asked.planted <= high).all()
        found = ask(asked, seconds=0.2)
        assert found.attained <= 1e-12
        assert found.wrong == [], (number, found)


def test_the_least_value_along_a_line_is_that_of_a_fine_grid():
    for number in range(40):
        asked = question(number)
        low, high = (asked.image - asked.eps).clamp(min=0), (asked.image + asked.eps).clamp(max=1)
        value, place = along(asked.network, low, high)
        share = torch.linspace(0, 1, 2001, dtype=torch.float64).view(-1, 1, 1, 1)
        grid = asked.network(low + share * (high - low))
        assert value <= grid.min() + 1e-12
        assert value == pytest.approx(float(asked.network(place)[0, 0]), abs=1e-12)
        steepest = (grid.diff(dim=0).abs()).max()
        assert grid.min() - value <= steepest + 1e-12


def test_a_bound_that_is_too_high_would_be_seen():
    asked = question(3)
    found = ask(asked, seconds=0.2)
    lifted = {name: bound + (found.attained - bound) + 1e-6 for name, bound in found.bounds.items()}
    assert type(found)(lifted, found.attained, found.exact, found.finished).wrong == list(lifted)


def test_with_one_pixel_the_search_is_exact():
    asked = next(question(number) for number in range(20) if question(number).image.numel() == 1)
    value, exact = searched(asked)
    share = torch.linspace(0, 1, 5001, dtype=torch.float64).view(-1, 1, 1, 1)
    low, high = (asked.image - asked.eps).clamp(min=0), (asked.image + asked.eps).clamp(max=1)
    assert exact and value <= float(asked.network(low + share * (high - low)).min()) + 1e-12
