"""The two kinds of certificate that ``certify`` writes: by bounds, with or without a teacher, and by smoothing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from overproof.attacks.ball import Threat
from overproof.certification.cascade import FALSIFIED, STAGES, UNKNOWN, Plan, Proposal, certify_block
from overproof.certification.pair import Pair, compare_block
from overproof.certification.pair_results import GapBounds
from overproof.certification.results import Certificates, count_verified
from overproof.certification.smoothing import Smoothed, Smoothing, smooth
from overproof.data.images import Batch
from overproof.evaluation.state import ExampleState, join_blocks
from overproof.models.classifier import Classifier
from overproof.recipe import plain
from overproof.runs.blocks import BlockProgress
from overproof.runs.known import CounterExamples
from overproof.statistics import Proportion

_PAIR = "pair."  # what the names of the pair's state begin with, beside the student's own


class Certificate(Protocol):
    """How a block of examples is certified, and what all blocks' state say."""

    @property
    def rounds(self) -> int:
        """How often each example is gone through."""
        ...

    def steps(
        self, block: Batch, state: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[BlockProgress]:
        """Certify block ``number``, going on from ``state``; ``rows`` ``[B]`` are the places in the whole set."""
        ...

    def evidence(self, state: ExampleState) -> Proportion:
        """Return the certified accuracy of a block so far."""
        ...

    def figures(self, blocks: list[ExampleState]) -> dict[str, Any]:
        """Return what ``certificate.json`` says of all blocks."""
        ...

    def records(self, blocks: list[ExampleState], indices: list[int]) -> list[dict[str, Any]]:
        """Return a record per example; ``indices`` are their places in the whole set."""
        ...

    def counter_examples(self, blocks: list[ExampleState], indices: list[int]) -> dict[str, Tensor]:
        """Return the images that falsify, by what they falsify; nothing where no image can."""
        ...


@dataclass(frozen=True, eq=False)
class Bounding:
    """Bounds of one network and, with ``pair``, of how far it may be from its teacher.

    ``known`` are counter-examples of earlier results, which are tried first.
    """

    proposal: Proposal
    pair: Pair | None
    plan: Plan
    teacher: str = ""
    gammas: tuple[float, ...] = ()
    known: tuple[CounterExamples, ...] = ()

    @property
    def rounds(self) -> int:
        """One for the student, one for the pair."""
        return 1 if self.pair is None else 2

    def steps(
        self, block: Batch, state: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[BlockProgress]:
        """Certify the student, then compare it with its teacher; both have half of an example's time at least."""
        before = None if state is None else {name: v for name, v in state.items() if not name.startswith(_PAIR)}
        own: ExampleState = {}
        plan = self.plan if self.pair is None else replace(self.plan, seconds=self.plan.seconds / 2)
        known = [one.of(rows) for one in self.known]
        for now in certify_block(self.proposal, block, plan, seed=seed, number=number, state=before, known=known):
            own = now
            yield BlockProgress("certify", own, int((own["verdict"] != UNKNOWN).sum()), where=_where(own))
        pair = _of_pair(state or {})
        if self.pair is not None and not pair:
            for now in compare_block(self.pair, block, self.plan, own, seed=seed, number=number):
                pair = now
                through = int((~now["correct"] | (now["under_proven"] < 1)).sum())
                yield BlockProgress("compare with the teacher", own, len(rows) + through)
        yield BlockProgress(
            "done", own | {_PAIR + name: v for name, v in pair.items()}, self.rounds * len(rows), whole=True
        )

    def evidence(self, state: ExampleState) -> Proportion:
        """Return the certified accuracy of a block so far."""
        return count_verified(self.plan, state)

    def figures(self, blocks: list[ExampleState]) -> dict[str, Any]:
        """Return what ``certificate.json`` says of all blocks."""
        gaps = self._gaps(blocks)
        return {
            "kind": "bounds",
            "bound": self.plan.reach,
            "precision": self.plan.precision,
            "budget": self.plan.seconds,
            "attacks": [plain(trial) for trial in self.plan.suite.attacks],
            "known_counter_examples": sum(len(one.index) for one in self.known),
            **Certificates.of(blocks, plan=self.plan).plain(),
            "teacher": None if gaps is None else {"name": self.teacher, **gaps.plain(self.gammas, self.plan.seconds)},
        }

    def records(self, blocks: list[ExampleState], indices: list[int]) -> list[dict[str, Any]]:
        """Return a record per example, with its pair's."""
        lines, gaps = Certificates.of(blocks, plan=self.plan).records(index=indices), self._gaps(blocks)
        if gaps is None:
            return lines
        return [one | {"pair": pair} for one, pair in zip(lines, gaps.where_correct(), strict=True)]

    def counter_examples(self, blocks: list[ExampleState], indices: list[int]) -> dict[str, Tensor]:
        """Return the images that falsify robustness, and those at which the pair disagrees."""
        certificates, gaps = Certificates.of(blocks, plan=self.plan), self._gaps(blocks)
        index, falsified = torch.tensor(indices), certificates.correct & (certificates.state["verdict"] == FALSIFIED)
        images = {"images": certificates.state["image"][falsified], "index": index[falsified]}
        if gaps is not None:
            apart = gaps.state["agreement"] == FALSIFIED
            images |= {"disagreements": gaps.state["image"][apart], "disagreements_index": index[apart]}
        return images

    def _gaps(self, blocks: list[ExampleState]) -> GapBounds | None:
        return None if self.pair is None else GapBounds.of(map(_of_pair, blocks))


def _where(state: ExampleState) -> str:
    """Return the stage that the furthest of the open examples has come to, and how many are open."""
    open_ = state["verdict"] == UNKNOWN
    count = int(open_.sum())
    return f"{count} open, at {STAGES[int(state['stage'][open_].max())]}" if count else ""


def _of_pair(state: ExampleState) -> ExampleState:
    return {name.removeprefix(_PAIR): value for name, value in state.items() if name.startswith(_PAIR)}


@dataclass(frozen=True, eq=False)
class Smoothening:
    """Randomised smoothing: a certificate in l2 for the smoothed network, not for the network itself."""

    model: Classifier
    threat: Threat
    noise: Smoothing

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def steps(
        self, block: Batch, state: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[BlockProgress]:
        """Sample one example after the other."""
        parts = [] if state is None else [state]
        for place in range(0 if state is None else len(state["index"]), len(rows)):
            one = slice(place, place + 1)
            smoothed = smooth(self.model, block.x[one], block.y[one], self.noise, seed=seed, indices=rows[one].tolist())
            parts = [join_blocks([*parts, smoothed.state])]
            yield BlockProgress("smooth", parts[0], place + 1)
        yield BlockProgress("done", parts[0], len(rows), whole=True)

    def evidence(self, state: ExampleState) -> Proportion:
        """Return the certified accuracy of a block so far."""
        return self._smoothed([state]).evidence(float(self.threat.eps))

    def figures(self, blocks: list[ExampleState]) -> dict[str, Any]:
        """Return what ``certificate.json`` says of all blocks."""
        smoothed, eps = self._smoothed(blocks), float(self.threat.eps)
        outcomes = smoothed.outcomes(eps)
        return {
            "kind": "smoothing",
            "smoothing": asdict(self.noise) | {"largest": self.noise.largest},
            "verified": smoothed.evidence(eps).plain(),
            "counts": {name: outcomes.count(name) for name in ("certified", "too_small", "abstained", "wrong")},
            "teacher": None,
        }

    def records(self, blocks: list[ExampleState], indices: list[int]) -> list[dict[str, Any]]:
        """Return a record per example."""
        return self._smoothed(blocks).at(float(self.threat.eps))

    def counter_examples(self, blocks: list[ExampleState], indices: list[int]) -> dict[str, Tensor]:
        """Return nothing: an image may be too little certified, but no image falsifies a vote."""
        return {}

    def _smoothed(self, blocks: list[ExampleState]) -> Smoothed:
        return Smoothed.of(blocks, smoothing=self.noise)
