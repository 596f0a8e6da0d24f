import pytest

from overproof import stopping
from overproof.stopping import Stop, Stopped


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only number is the time."""
    now = [100.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: now[0])
    return now


def test_outside_it_is_heeded_at_once(clock):
    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        stop.ask(15)
    assert stop.number == 15


def test_within_it_is_noted_and_the_first_one_counts(clock):
    stop = Stop()
    with stop.noted():
        assert stop.number == 0
        stop.ask(15)
        clock[0] += 0.9
        stop.ask(2)  # a launcher passes on what its processes got themselves
        assert stop.number == 15


def test_a_further_one_after_a_second_is_heeded_at_once(clock):
    stop = Stop()
    with pytest.raises(KeyboardInterrupt), stop.noted():
        stop.ask(2)
        clock[0] += 1.0
        stop.ask(2)
        pytest.fail("it was not heeded")
    with pytest.raises(KeyboardInterrupt):
        stop.ask(2)


def test_what_has_nothing_to_save_is_ended_at_once_also_by_what_was_noted_before(clock):
    stop = Stop()
    with stop.noted():
        with pytest.raises(KeyboardInterrupt), stop.heeded():
            stop.ask(15)
        clock[0] += 0.5
        stop.ask(15)  # noted again
        with pytest.raises(KeyboardInterrupt), stop.heeded():
            pytest.fail("it was not heeded")
    assert stop.number == 15


def test_what_was_saved_is_told():
    said = Stopped(15, "it is saved")
    assert isinstance(said, KeyboardInterrupt)
    assert (said.number, str(said)) == (15, "it is saved")
