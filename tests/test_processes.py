import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from overproof.errors import AgreedError, InputError
from overproof.processes import ALONE, WHOLE, Part, Processes, lost

counts = st.integers(1, 6)
sizes = st.integers(1, 40)


def fail(sentence):
    raise InputError(sentence)


class TestAlone:
    def test_a_process_without_a_launcher_leads_nobody(self, monkeypatch):
        for name in (None, "1"):
            monkeypatch.delenv("WORLD_SIZE", raising=False)
            if name:
                monkeypatch.setenv("WORLD_SIZE", name)
            assert Processes.here() == ALONE
        assert ALONE.leads

    def test_nothing_is_said_to_anyone(self):
        values = torch.tensor([3.0, 1.0], requires_grad=True)
        ALONE.wait()
        assert ALONE.gather(5) == [5]
        assert ALONE.together(lambda: 5) == ALONE.from_leader(lambda: 5) == 5
        for found in (ALONE.mean(values), ALONE.least(values), ALONE.greatest(values)):
            assert torch.equal(found, values)
            assert not found.requires_grad
        assert ALONE.interleaved(values) is values
        ALONE.leaders([values])
        with pytest.raises(InputError, match="so") as caught:
            ALONE.together(lambda: fail("so"))
        assert not isinstance(caught.value, AgreedError)
        assert WHOLE.rows(values) is values
        assert torch.equal(WHOLE.mean(values), values)
        assert (WHOLE.least(values), WHOLE.greatest(values), WHOLE.share) == (1.0, 3.0, 1.0)


def test_processes_that_do_not_meet_are_one_sentence(monkeypatch):
    import accelerate

    def alone(cpu):
        assert cpu
        raise RuntimeError("Gloo connectFullMesh failed\nwith a stack")

    monkeypatch.setattr(accelerate, "PartialState", alone)
    for name, value in (("WORLD_SIZE", "4"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match=r"^the 4 processes did not meet at node1:29500 \(Gloo connectFullMesh failed\)$"
    ):
        Processes.here(cpu=True)


class TestPart:
    @given(counts, sizes)
    def test_every_row_is_in_one_part_and_parts_differ_by_at_most_one(self, count, whole):
        parts = [Part(Processes(rank, count), whole) for rank in range(count)]
        rows = [part.rows(torch.arange(whole)) for part in parts]
        assert [len(some) for some in rows] == [part.size for part in parts]
        assert sorted(torch.cat(rows).tolist()) == list(range(whole))
        assert max(part.size for part in parts) - min(part.size for part in parts) <= 1

    @given(counts, sizes)
    def test_the_mean_of_weighted_means_is_the_mean(self, count, whole):
        values = torch.rand(whole, dtype=torch.float64)
        parts = [Part(Processes(rank, count), whole) for rank in range(count)]
        weighted = [part.share * part.rows(values).mean() for part in parts if part.size]
        torch.testing.assert_close(torch.stack(weighted).sum() / count, values.mean())

    @given(counts, sizes, sizes)
    def test_a_row_of_a_smaller_batch_is_where_it_is_in_a_full_one(self, count, whole, fewer):
        fewer = min(whole, fewer)
        for rank in range(count):
            full, last = (Part(Processes(rank, count), n).rows(torch.arange(n)) for n in (whole, fewer))
            assert torch.equal(full[: len(last)], last)


class TestTogether:
    def test_what_they_tell_each_other(self, group):
        whole = torch.arange(12.0).view(6, 2)

        def work(processes):
            part = Part(processes, 5)
            mine = torch.tensor([float(processes.rank), 5.0 - processes.rank], requires_grad=True)
            overwritten = torch.full((2,), float(processes.rank))
            processes.leaders([overwritten])
            processes.wait()
            five = whole[:5, 0]
            return {
                "gather": processes.gather(processes.rank * 10),
                "together": processes.together(lambda: processes.rank),
                "from leader": processes.from_leader(lambda: processes.rank if processes.leads else fail("not asked")),
                "mean": processes.mean(mine),
                "least": processes.least(mine),
                "greatest": processes.greatest(mine),
                "untouched": mine.detach(),
                "overwritten": overwritten,
                "interleaved": processes.interleaved(Part(processes, 6).rows(whole)),
                "part": torch.stack(
                    [part.mean(part.rows(five).mean()), part.least(part.rows(five)), part.greatest(part.rows(five))]
                ),
            }

        for rank, found in enumerate(group(work, count=3)):
            assert found["gather"] == [0, 10, 20]
            assert (found["together"], found["from leader"]) == (rank, 0)
            torch.testing.assert_close(found["mean"], torch.tensor([1.0, 4.0]))
            assert found["least"].tolist() == [0.0, 3.0]
            assert found["greatest"].tolist() == [2.0, 5.0]
            assert not found["mean"].requires_grad
            assert found["untouched"].tolist() == [rank, 5 - rank]
            assert found["overwritten"].tolist() == [0, 0]
            assert torch.equal(found["interleaved"], whole)
            torch.testing.assert_close(found["part"], torch.tensor([4.0, 0.0, 8.0]))

    def test_bad_input_of_one_is_everyones_in_one_sentence(self, group):
        def work(processes):
            said = []
            for wrong in ([1], [0, 1], []):
                try:
                    processes.together(lambda wrong=wrong: fail("no such file") if processes.rank in wrong else None)
                    said.append("went on")
                except AgreedError as problem:
                    said.append(str(problem))
            try:
                processes.from_leader(lambda: fail("only the leader looks"))
            except AgreedError as problem:
                said.append(str(problem))
            return said

        wanted = ["process 1 of 2: no such file", "no such file", "went on", "only the leader looks"]
        assert group(work) == [wanted, wanted]

    def test_other_errors_are_their_own(self, group):
        def work(processes):
            return processes.together(lambda: 1 / 0)

        assert [type(found) for found in group(work)] == [ZeroDivisionError] * 2


class TestLost:
    def test_one_is_killed_and_the_other_knows(self, group):
        def work(processes):
            if processes.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                distributed.all_reduce(torch.zeros(3))
            except RuntimeError as problem:
                return lost(problem)

        assert group(work) == [True, None]

    def test_a_fault_of_our_own_is_not_a_lost_process(self):
        assert not lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))
