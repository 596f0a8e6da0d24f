import pytest

from overproof.processes import ALONE, Processes
from overproof.training import pace
from overproof.training.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only number is the time; a look is due every second."""
    now = [100.0]
    monkeypatch.setattr(pace, "monotonic", lambda: now[0])
    monkeypatch.setattr(pace, "LOOK_SECONDS", 1.0)
    return now


def looks(found, clock, seconds):
    """Return after which of the batches, each of so many seconds, it looks."""
    shown = []
    for number, one in enumerate(seconds):
        clock[0] += one
        if found.due(asked=False):
            shown.append(number)
            found.looked()
    return shown


def test_alone_it_looks_when_a_second_has_passed(clock):
    assert looks(Pace(ALONE), clock, [0.25] * 12) == [3, 7, 11]
    assert looks(Pace(ALONE), clock, [3.0, 0.5, 0.5, 0.1]) == [0, 2]


def test_alone_it_looks_at_once_where_it_is_to_stop(clock):
    found = Pace(ALONE)
    assert not found.due(asked=False)
    assert found.due(asked=True)


def leading(clock):
    """Return the first of two processes, whose word is the others'."""
    found = Pace(Processes(0, 2))
    object.__setattr__(found.processes, "from_leader", lambda work: work())
    return found


def test_of_several_the_first_one_reckons_after_how_many_batches(clock):
    # A slow first batch; then at most four times as many as the time before, until they take a second.
    assert looks(leading(clock), clock, [5.0] + [0.01] * 400)[:5] == [0, 1, 5, 21, 85]
    assert looks(leading(clock), clock, [0.5] * 9) == [0, 2, 4, 6, 8]


def test_of_several_none_looks_early(clock):
    found = leading(clock)
    assert found.due(asked=False)
    clock[0] += 0.25
    found.looked()
    assert not found.due(asked=True)
    assert [found.due(asked=True) for _ in range(3)] == [False, False, True]


def test_two_processes_look_at_the_same_batches(group, monkeypatch):
    monkeypatch.setattr(pace, "LOOK_SECONDS", 1.0)

    def work(processes):
        found, shown = Pace(processes), []
        # Each has a clock of its own, and the second one's is slow.
        pace.monotonic = iter(range(0, 10**6, 10 if processes.rank else 1)).__next__
        for number in range(40):
            if found.due(asked=False):
                shown.append(number)
                found.looked()
        return shown

    first, second = group(work)
    assert first == second
    assert len(first) > 2
