from math import inf

import pytest
import torch

from overproof.bounds import afford
from overproof.bounds.afford import NotAffordedError, portions

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only number is the time."""
    now = [100.0]
    monkeypatch.setattr(afford, "monotonic", lambda: now[0])
    return now


def sizes(clock, seconds, *words):
    """Return how many rows each portion has, where a row takes so many seconds."""
    found = []
    for part in portions(*words, CPU):
        assert part.tolist() == list(range(sum(found), sum(found) + len(part)))
        found.append(len(part))
        clock[0] += seconds * len(part)
    return found


def test_without_a_limit_they_are_as_large_as_they_may_be(clock):
    assert sizes(clock, 1.0, 10, 2**22, 4, inf) == [4, 4, 2]


def test_few_numbers_are_done_at_once(clock):
    assert sizes(clock, 1.0, 1000, 4000, 10**6, 101.0) == [1000]


def test_within_a_limit_the_first_are_small(clock):
    assert sizes(clock, 0.01, 100, 2**18, 64, 101.1) == [4, 16, 64, 16]


@pytest.mark.parametrize(("seconds", "rows"), [(0.02, 4), (10.0, 4)])
def test_what_would_take_too_long_is_given_up_after_the_first_portion(clock, seconds, rows):
    done = []
    with pytest.raises(NotAffordedError):
        for part in portions(100, 2**18, 64, 101.0, CPU):
            done += part.tolist()
            clock[0] += seconds * len(part)
    assert len(done) == rows


def test_so_it_is_where_it_becomes_slow(clock):
    done = []
    with pytest.raises(NotAffordedError):
        for part in portions(100, 2**18, 64, 101.0, CPU):
            done += part.tolist()
            clock[0] += 0.001 * len(part) ** 2
    assert len(done) == 4 + 16


def test_nothing_is_begun_when_the_time_is_over(clock):
    with pytest.raises(NotAffordedError):
        next(portions(1, 1, 1, 99.0, CPU))
