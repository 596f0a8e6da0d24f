import pytest
import torch

from overproof.runs.energy import Energy

CPU = torch.device("cpu")


@pytest.fixture
def counters(tmp_path):
    """Return a function that sets a package's counter, in microjoules."""

    def set_to(name, used, around=1_000_000_000):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{used}\n")
        (folder / "max_energy_range_uj").write_text(f"{around}\n")

    return set_to


def test_the_packages_add_up_and_their_parts_are_not_counted_twice(counters, tmp_path):
    counters("intel-rapl:0", 5_000_000)
    counters("intel-rapl:1", 0)
    counters("intel-rapl:0:0", 0)
    with Energy(CPU, tmp_path) as energy:
        counters("intel-rapl:0", 8_000_000)
        counters("intel-rapl:1", 500_000)
        counters("intel-rapl:0:0", 900_000_000)
    assert energy.joules == 3.5


def test_a_counter_that_went_around_went_forward(counters, tmp_path):
    counters("intel-rapl:0", 9_000_000, around=10_000_000)
    with Energy(CPU, tmp_path) as energy:
        counters("intel-rapl:0", 1_000_000, around=10_000_000)
    assert energy.joules == 2.0


@pytest.mark.parametrize("text", [None, "secret"])
def test_where_nobody_tells_it_is_not_known(counters, tmp_path, text):
    if text is not None:  # what cannot be read as a number
        counters("intel-rapl:0", text)
    with Energy(CPU, tmp_path) as energy:
        pass
    assert energy.joules is None


def test_a_graphics_card_is_its_power_times_the_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr("overproof.runs.energy._watts", lambda device: 100.0)
    times = iter([10.0, 13.0])
    monkeypatch.setattr("overproof.runs.energy.monotonic", lambda: next(times))
    with Energy(torch.device("cuda"), tmp_path) as energy:
        pass
    assert energy.joules == 300.0
