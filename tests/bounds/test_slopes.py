import itertools
from types import SimpleNamespace

import torch

from overproof.bounds import slopes
from overproof.bounds.graph import Free
from overproof.bounds.slopes import Climb


class Hills:
    """Two rows whose bounds are highest where one choice of each has a given value; and what was asked."""

    def __init__(self, tops=(0.3, 0.9), start=0.0, kind="slopes"):
        self.tops, self.start, self.kind, self.asked = torch.tensor(tops), start, kind, []

    def __call__(self, free):
        choice = getattr(free, self.kind).setdefault(7, torch.full((2,), self.start))
        self.asked.append(choice.detach().clone())
        return -((choice - self.tops) ** 2)


def test_every_row_climbs_its_own_hill():
    hills = Hills()
    found = Climb(steps=60, rate=0.1).best(hills, Free())
    assert not found.requires_grad
    assert (found > -1e-3).all()
    assert len(hills.asked) == 60 + 2  # before the first step and after the last


def test_the_best_of_every_row_counts_wherever_the_climb_ends():
    hills = Hills(start=0.3)  # at the top of the first hill
    found = Climb(steps=5, rate=0.5).best(hills, Free())
    values = torch.stack([-((slope - hills.tops) ** 2) for slope in hills.asked])
    assert values[:, 1].argmax() not in (0, len(values) - 1), "the second hill was stepped over"
    torch.testing.assert_close(found, values.amax(dim=0), rtol=0, atol=0)


def test_slopes_stay_between_zero_and_one():
    hills = Hills(tops=(2.0, -1.0), start=0.5)
    found = Climb(steps=20).best(hills, Free())
    asked = torch.stack(hills.asked)
    assert asked.min() == 0 and asked.max() == 1
    torch.testing.assert_close(found, torch.tensor([-1.0, -1.0]))


def test_prices_are_never_negative_and_have_no_upper_end():
    hills = Hills(tops=(2.0, -1.0), kind="prices")
    found = Climb(steps=60).best(hills, Free())
    asked = torch.stack(hills.asked)
    assert asked.min() == 0 and asked.max() > 1.5
    assert found[0] > -0.05 and found[1] == -1


def test_the_last_choice_is_left_behind():
    free, hills = Free(), Hills()
    Climb(steps=7).best(hills, free)
    assert torch.equal(free.slopes[7], hills.asked[-1])
    assert not free.slopes[7].requires_grad


def test_a_choice_that_no_row_depends_on_stays():
    free = Free(slopes={3: torch.full((2,), 0.25)})
    Climb(steps=5).best(Hills(), free)
    assert free.slopes[3].tolist() == [0.25, 0.25]


def test_nothing_of_the_network_is_kept():
    # Bounds of a network that learns carry a graph; the best of them is a number.
    height = torch.zeros(2, requires_grad=True)
    hills = Hills()
    for steps in (0, 3):
        assert not Climb(steps=steps).best(lambda free: hills(free) + height, Free()).requires_grad


def test_the_time_is_counted_from_the_start(monkeypatch):
    looks = itertools.count(1000)  # a second passes at every look
    monkeypatch.setattr(slopes, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    hills = Hills()
    Climb(steps=100, seconds=5.5).best(hills, Free())
    assert len(hills.asked) == 4 + 2  # the fifth step would end after six seconds


def test_with_time_enough_all_steps_are_taken():
    hills, hurried = Hills(), Hills()
    assert torch.equal(Climb(steps=9).best(hills, Free()), Climb(steps=9, seconds=1e6).best(hurried, Free()))
    assert len(hills.asked) == len(hurried.asked) == 9 + 2


def test_no_time_is_no_step():
    hills = Hills()
    found = Climb(steps=1000, seconds=0).best(hills, Free())
    assert len(hills.asked) <= 2
    torch.testing.assert_close(found, -(hills.tops**2))


def test_no_steps_is_the_start():
    hills = Hills()
    torch.testing.assert_close(Climb(steps=0).best(hills, Free()), -(hills.tops**2))


def test_a_graph_without_activations_has_nothing_to_climb():
    asked = []

    def least(free):
        asked.append(free)
        return torch.tensor([1.0, -2.0])

    assert Climb(steps=50).best(least, Free()).tolist() == [1.0, -2.0]
    assert len(asked) <= 2


def test_nothing_known_is_nothing_proved():
    """A bound that is not a number never becomes one."""
    unknown = torch.tensor([torch.nan, 1.0])
    found = Climb(steps=3).best(lambda free: free.slopes.setdefault(0, torch.zeros(2)) + unknown, Free())
    assert found[0].isnan() and found[1] >= 1


def test_it_climbs_where_gradients_are_switched_off():
    with torch.no_grad():
        assert (Climb(steps=60, rate=0.1).best(Hills(), Free()) > -1e-3).all()


def test_the_defaults():
    assert Climb() == Climb(steps=20, rate=0.25, decay=0.98, seconds=None)
