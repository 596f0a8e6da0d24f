import pytest
import torch

from overproof.memory import piecewise, ran_out, within_memory

FULL = torch.OutOfMemoryError("no memory")
ON_A_PROCESSOR = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("problem", [FULL, ON_A_PROCESSOR, MemoryError()])
def test_work_that_does_not_fit_is_done_in_halves(problem):
    tried = []

    def work(chunk):
        tried.append(chunk)
        if chunk > 5:
            raise problem
        return "done"

    assert within_memory(work, 20) == ("done", 5)
    assert tried == [20, 10, 5]


def test_not_even_one_is_the_devices_own_error():
    def work(chunk):
        raise FULL

    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        within_memory(work, 4)


def test_another_problem_is_not_taken_for_memory():
    def work(chunk):
        raise RuntimeError("shapes do not match")

    assert not ran_out(RuntimeError("shapes do not match"))
    assert ran_out(RuntimeError("could not create a primitive"))  # oneDNN, with an address space that ends
    assert ran_out(RuntimeError("std::bad_alloc"))
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(work, 8)
    with pytest.raises(RuntimeError, match="shapes"):
        piecewise(work, torch.arange(3), 1)


def test_every_row_is_worked_on_in_parts_that_fit_and_what_is_too_large_is_left():
    done, large = [], {3, 11}

    def work(rows):
        if len(rows) > 4 or large & set(rows.tolist()):
            raise FULL
        done.extend(rows.tolist())

    left = piecewise(work, torch.arange(20), 16)
    assert left.tolist() == [3, 11]
    assert done == [row for row in range(20) if row not in large]


def test_nothing_to_do():
    assert len(piecewise(lambda rows: 1 / 0, torch.arange(0), 4)) == 0
