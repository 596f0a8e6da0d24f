"""Several processes on one task, as ``accelerate launch`` or ``torchrun`` starts them: who this one is, what all know.

Every function but ``here`` must be called by all processes, in the same order. Alone they cost nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, distributed

from overproof.errors import AgreedError, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's ``rank`` among ``count``; alone, (0, 1)."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls, *, cpu: bool = False) -> Self:
        """Return what ``accelerate launch`` or ``torchrun`` made this process, and meet the others.

        ``cpu`` says that the task runs on CPUs although there may be a GPU; the first call decides. Raises
        ``InputError`` where the others do not come.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        from accelerate import PartialState

        # On CPUs it takes every process for the only one unless it is told.
        try:
            state = PartialState(cpu=cpu or not torch.cuda.is_available())
        except RuntimeError as problem:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            reason = str(problem).splitlines()[0]
            raise InputError(f"the {count} processes did not meet at {place} ({reason})") from problem
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of their ranks; tensors must be on the CPU."""
        values: list[T] = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """Return what ``work`` gives this process; an ``InputError`` of one is an ``AgreedError`` of all.

        So nobody waits for a process that has stopped, and the user reads one sentence.
        """
        if self.count == 1:
            return work()
        parts: list[T] = []
        problem = ""
        try:
            parts.append(work())
        except InputError as reason:
            problem = str(reason)
        problems = self.gather(problem)
        if any(problems):
            first = next(rank for rank, sentence in enumerate(problems) if sentence)
            alike = len(set(problems)) == 1
            raise AgreedError(problems[first] if alike else f"process {first} of {self.count}: {problems[first]}")
        return parts[0]

    def from_leader(self, work: Callable[[], T]) -> T:
        """Return what ``work`` gives the leading process, which alone does it; its ``InputError`` is everyone's."""
        if self.count == 1:
            return work()
        value: list[T] = []
        problem = ""
        if self.leads:
            try:
                value.append(work())
            except InputError as reason:
                problem = str(reason)
        said = [value, problem]
        distributed.broadcast_object_list(said, src=0)
        value, problem = said  # type: ignore[assignment]
        if problem:
            raise AgreedError(problem)
        return value[0]

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the processes, elementwise; no gradient flows."""
        return self._reduced(value, distributed.ReduceOp.SUM) / self.count if self.count > 1 else value.detach()

    def least(self, value: Tensor) -> Tensor:
        """Return the smallest over the processes, elementwise; no gradient flows."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def greatest(self, value: Tensor) -> Tensor:
        """Return the largest over the processes, elementwise; no gradient flows."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def leaders(self, tensors: list[Tensor]) -> None:
        """Overwrite the tensors, in place, by those of the leading process."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def interleaved(self, rows: Tensor) -> Tensor:
        """Return the whole of which each process holds every ``count``-th row from number ``rank`` on."""
        if self.count == 1:
            return rows
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        distributed.all_gather(parts, rows)
        return torch.stack(parts, dim=1).flatten(0, 1)

    def _reduced(self, value: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
        value = value.detach()
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value, how)
        return value


ALONE = Processes()
"""The only process."""


@dataclass(frozen=True)
class Part:
    """This process's part of a batch of ``whole`` images: every ``count``-th row from number ``rank`` on.

    Rows are dealt in turn and not cut into blocks, so that a row of a smaller batch is where it is in a full one: what
    a method remembers by row (the perturbation of free training) meets the images that it meets in a single process.
    """

    processes: Processes = ALONE
    whole: int = 1

    @property
    def size(self) -> int:
        """How many rows are here."""
        return len(range(self.processes.rank, self.whole, self.processes.count))

    @property
    def share(self) -> float:
        """The weight of a mean over these rows in the mean over processes that is the mean over the whole batch."""
        return self.size * self.processes.count / self.whole if self.processes.count > 1 else 1.0

    def rows(self, whole: Tensor) -> Tensor:
        """Return this process's rows of the whole batch's."""
        return whole[self.processes.rank :: self.processes.count] if self.processes.count > 1 else whole

    def mean(self, mean: Tensor) -> Tensor:
        """Return a mean over the whole batch from the means over the parts; no gradient flows."""
        return self.processes.mean(mean if self.share == 1 else mean * self.share)

    def least(self, values: Tensor) -> Tensor:
        """Return the smallest value of the whole batch, a scalar; no gradient flows."""
        return self.processes.least(values.min())

    def greatest(self, values: Tensor) -> Tensor:
        """Return the largest value of the whole batch, a scalar; no gradient flows."""
        return self.processes.greatest(values.max())


WHOLE = Part()
"""The whole batch, in the only process."""


def lost(problem: RuntimeError) -> bool:
    """Whether this is how a process learns that another one has gone."""
    said = str(problem).lower()
    signs = ("gloo", "nccl", "connection closed", "connection reset", "peer")
    return isinstance(problem, distributed.DistError) or any(sign in said for sign in signs)
