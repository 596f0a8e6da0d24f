"""Several processes on one evaluation: each takes every n-th block."""

from dataclasses import dataclass

from overproof.evaluation.state import ExampleState
from overproof.processes import Processes


@dataclass(frozen=True)
class Shard(Processes):
    """This process's blocks."""

    def mine(self, number: int) -> bool:
        """Whether this process takes block ``number``."""
        return number % self.count == self.rank

    def collected(self, blocks: dict[int, ExampleState]) -> dict[int, ExampleState]:
        """Return the blocks of all processes, the same in each of them; tensors on the CPU."""
        if self.count == 1:
            return blocks
        mine = {number: {name: value.cpu() for name, value in state.items()} for number, state in blocks.items()}
        return dict(sorted(item for theirs in self.gather(mine) for item in theirs.items()))
