"""Several processes on one evaluation, as ``accelerate launch`` starts them: each takes every n-th block."""

import os
from dataclasses import dataclass
from operator import itemgetter

import torch

from overproof.evaluation.marks import Marks


@dataclass(frozen=True)
class Shard:
    """This process's ``rank`` among ``count``; alone, (0, 1)."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Shard":
        """Return what ``accelerate launch`` or, on processors, ``torchrun`` made this process."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        # On processors it takes every process for the only one unless it is told.
        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether this process takes block ``number``."""
        return number % self.count == self.rank

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def gather(self, blocks: dict[int, Marks]) -> dict[int, Marks]:
        """Return the blocks of all processes, the same in each of them; tensors on the CPU."""
        if self.count == 1:
            return blocks
        from accelerate.utils import gather_object

        mine = [(number, {name: value.cpu() for name, value in marks.items()}) for number, marks in blocks.items()]
        return dict(sorted(gather_object(mine), key=itemgetter(0)))
