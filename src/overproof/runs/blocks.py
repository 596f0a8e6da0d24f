"""Work on the images of an evaluation or a certification, block by block: kept, resumed, shared, and put in its place.

A block's result depends on the block alone, so that what is finished of it can be kept, and blocks can be dealt to
several processes.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from overproof.data.images import Batch, ImageSet
from overproof.evaluation.shards import Shard
from overproof.evaluation.state import ExampleState, move_state
from overproof.evaluation.store import Store
from overproof.locking import exclusive
from overproof.reading import parsing
from overproof.runs.results import Kind
from overproof.statistics import Proportion

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a command asks of a network of this ``digest``, and the root folder below which its answer is kept.

    ``asked`` is everything that the answer depends on; ``title`` names it for people.
    """

    command: str
    kind: Kind
    folder: Path
    asked: Mapping[str, Any]
    title: str
    digest: str
    shard: Shard

    @property
    def kept(self) -> Path:
        """The folder of the answer."""
        return self.kind.place(self.folder, self.asked, self.title)

    def earlier(self, *, overwrite: bool) -> dict[str, Any] | None:
        """Return the answer that was found before, None where there is none."""
        return self.kind.finished(self.kept, overwrite=overwrite)

    def promote(self) -> None:
        """Put the strongest answer at the root; a crash may have come between an answer and its place there."""
        if self.shard.leads:
            with exclusive(self.folder, self.command):
                self.kind.promote(self.folder, self.digest)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes of the same command out of the folder; when it ends well, promote."""
        with exclusive(self.folder, self.command) if self.shard.leads else nullcontext():
            yield
            if self.shard.leads:
                self.kind.promote(self.folder, self.digest)

    def store(self, name: str, setting: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Store:
        """Return the opened store of unfinished work; ``setting`` is what it depends on beside the question."""
        store = Store(self.kept / name, {**self.asked, **setting})
        if self.shard.leads:
            store.open(resume=resume, overwrite=overwrite)
        self.shard.wait()
        return store


class BlockProgress(NamedTuple):
    """One step of a block: what was done, the state, how far it is, and whether it is finished.

    ``done`` counts in the unit of the work, from 0 to the block's own total; ``where`` says more of what is open.
    """

    stage: str
    state: ExampleState
    done: int
    whole: bool = False
    where: str = ""


class Block(NamedTuple):
    """Block ``number``: its images, and the state of what was finished of it before."""

    number: int
    batch: Batch
    before: ExampleState | None


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the work is, of ``total``, and what is known of the blocks begun; ``first`` of this process."""

    stage: str
    where: str
    done: int
    total: int
    evidence: Proportion
    first: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Runner:
    """The way of all blocks of ``batch`` images; ``units`` is the work of a block of N images, in what steps count."""

    images: ImageSet
    batch: int
    store: Store
    shard: Shard
    units: Callable[[int], int]
    evidence: Callable[[ExampleState], Proportion]

    def run(
        self, steps: Callable[[Block], Iterator[BlockProgress]], told: Callable[[Position], T]
    ) -> Generator[T, None, list[ExampleState]]:
        """Yield what is ``told`` after every step, in the leading process alone.

        Returns the state of all blocks, in each process.
        """
        blocks: dict[int, ExampleState] = {}
        counts: dict[int, Proportion] = {}
        parts = list(self.images.batches(self.batch))
        mine = [number for number in range(len(parts)) if self.shard.mine(number)]
        total, finished, first = sum(self.units(len(parts[number].y)) for number in mine), 0, True
        for number in mine:
            before = self.store.load(number)
            if before is not None:
                before = move_state(before, self.images.labels.device)
                with parsing(self.store.folder, "state of this evaluation; delete the folder to begin again"):
                    blocks[number], counts[number] = before, self.evidence(before)
            for step in steps(Block(number, parts[number], before)):
                blocks[number], counts[number] = step.state, self.evidence(step.state)
                self.store.save(number, step.state, whole=step.whole)
                if self.shard.leads:
                    yield told(
                        Position(
                            stage=step.stage,
                            where=step.where,
                            done=finished + step.done,
                            total=total,
                            evidence=reduce(add, counts.values()),
                            first=first,
                        )
                    )
                first = False
            finished += self.units(len(parts[number].y))
        return list(self.shard.collected(blocks).values())
