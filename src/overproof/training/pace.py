"""How often a loop reads its losses: about once a second, and at the same batch in all processes."""

from time import monotonic

from overproof.processes import Processes

LOOK_SECONDS = 1.0  # between two looks at the losses: each waits for the device
_FASTER = 4  # how many times as many batches the next look may wait for: the first ones are slow, and say little


class Pace:
    """Says after which batch to look, without a word to the device or to other processes in between.

    Alone, it looks when a second has passed. Of several processes the first one reckons from the last second after how
    many batches all look again.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._looked, self._batches, self._until = monotonic(), 0, 1

    def due(self, *, asked: bool) -> bool:
        """Whether to look now, called after every batch; ``asked`` to stop, a single process looks at once."""
        self._batches += 1
        if self.processes.count == 1:
            return asked or monotonic() - self._looked >= LOOK_SECONDS
        return self._batches >= self._until

    def looked(self) -> None:
        """Begin again after a look; all processes together."""
        self._until = self.processes.from_leader(self._reckoned)
        self._looked, self._batches = monotonic(), 0

    def _reckoned(self) -> int:
        passed = max(monotonic() - self._looked, 1e-9)
        return max(1, min(int(self._batches * LOOK_SECONDS / passed), _FASTER * self._batches))
