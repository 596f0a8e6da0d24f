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
from overproof.certification.results import Certificates, verified
from overproof.certification.smoothing import Smoothed, Smoothing, smooth
from overproof.data.images import Batch
from overproof.evaluation.state import ExampleState, joined
from overproof.models.classifier import Classifier
from overproof.recipe import plain
from overproof.runs.blocks import Progress
from overproof.runs.known import Known
from overproof.statistics import Proportion

_PAIR = "pair."  # how the pair's marks are called beside the student's own


class Certificate(Protocol):
    """How a block of examples is certified, and what all blocks' marks say."""

    @property
    def rounds(self) -> int:
        """How often each example is gone through."""
        ...

    def steps(
        self, block: Batch, marks: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[Progress]:
        """Certify block ``number``, going on from ``marks``; ``rows`` ``[B]`` are the places in the whole set."""
        ...

    def evidence(self, marks: ExampleState) -> Proportion:
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
    known: tuple[Known, ...] = ()

    @property
    def rounds(self) -> int:
        """One for the student, one for the pair."""
        return 1 if self.pair is None else 2

    def steps(
        self, block: Batch, marks: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[Progress]:
        """Certify the student, then compare it with its teacher; both have half of an example's time at least."""
        before = None if marks is None else {name: v for name, v in marks.items() if not name.startswith(_PAIR)}
        own: ExampleState = {}
        plan = self.plan if self.pair is None else replace(self.plan, seconds=self.plan.seconds / 2)
        known = [one.of(rows) for one in self.known]
        for now in certify_block(self.proposal, block, plan, seed=seed, number=number, marks=before, known=known):
            own = now
            yield Progress("certify", own, int((own["verdict"] != UNKNOWN).sum()), where=_where(own))
        pair = _of_pair(marks or {})
        if self.pair is not None and not pair:
            for now in compare_block(self.pair, block, self.plan, own, seed=seed, number=number):
                pair = now
                through = int((~now["correct"] | (now["under_proven"] < 1)).sum())
                yield Progress("compare with the teacher", own, len(rows) + through)
        yield Progress("done", own | {_PAIR + name: v for name, v in pair.items()}, self.rounds * len(rows), whole=True)

    def evidence(self, marks: ExampleState) -> Proportion:
        """Return the certified accuracy of a block so far."""
        return verified(self.plan, marks)

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
            **Certificates.of(self.plan, blocks).plain(),
            "teacher": None if gaps is None else {"name": self.teacher, **gaps.plain(self.gammas, self.plan.seconds)},
        }

    def records(self, blocks: list[ExampleState], indices: list[int]) -> list[dict[str, Any]]:
        """Return a record per example, with its pair's."""
        lines, gaps = Certificates.of(self.plan, blocks).lines(indices), self._gaps(blocks)
        if gaps is None:
            return lines
        return [one | {"pair": pair} for one, pair in zip(lines, gaps.lines(), strict=True)]

    def counter_examples(self, blocks: list[ExampleState], indices: list[int]) -> dict[str, Tensor]:
        """Return the images that falsify robustness, and those at which the pair disagrees."""
        found, gaps = Certificates.of(self.plan, blocks), self._gaps(blocks)
        index, falsified = torch.tensor(indices), found.correct & (found.marks["verdict"] == FALSIFIED)
        images = {"images": found.marks["image"][falsified], "index": index[falsified]}
        if gaps is not None:
            apart = gaps.marks["agreement"] == FALSIFIED
            images |= {"disagreements": gaps.marks["image"][apart], "disagreements_index": index[apart]}
        return images

    def _gaps(self, blocks: list[ExampleState]) -> GapBounds | None:
        return None if self.pair is None else GapBounds.of(map(_of_pair, blocks))


def _where(marks: ExampleState) -> str:
    """Return the means that the furthest of the open examples has come to, and how many are open."""
    open_ = marks["verdict"] == UNKNOWN
    count = int(open_.sum())
    return f"{count} open, at {STAGES[int(marks['stage'][open_].max())]}" if count else ""


def _of_pair(marks: ExampleState) -> ExampleState:
    return {name.removeprefix(_PAIR): value for name, value in marks.items() if name.startswith(_PAIR)}


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
        self, block: Batch, marks: ExampleState | None, *, seed: int, number: int, rows: Tensor
    ) -> Iterator[Progress]:
        """Sample one example after the other."""
        parts = [] if marks is None else [marks]
        for place in range(0 if marks is None else len(marks["index"]), len(rows)):
            one = slice(place, place + 1)
            found = smooth(self.model, block.x[one], block.y[one], self.noise, seed=seed, indices=rows[one].tolist())
            names = ("index", "label", "selected", "votes")
            seconds = torch.tensor([found.seconds], dtype=torch.float64)
            parts.append({name: getattr(found, name) for name in names} | {"seconds": seconds})
            parts = [joined(parts)]
            yield Progress("smooth", parts[0], place + 1)
        yield Progress("done", parts[0], len(rows), whole=True)

    def evidence(self, marks: ExampleState) -> Proportion:
        """Return the certified accuracy of a block so far."""
        return self._smoothed([marks]).evidence(float(self.threat.eps))

    def figures(self, blocks: list[ExampleState]) -> dict[str, Any]:
        """Return what ``certificate.json`` says of all blocks."""
        found, eps = self._smoothed(blocks), float(self.threat.eps)
        outcomes = found.outcomes(eps)
        return {
            "kind": "smoothing",
            "smoothing": asdict(self.noise) | {"largest": self.noise.largest},
            "verified": found.evidence(eps).plain(),
            "counts": {name: outcomes.count(name) for name in ("certified", "too_small", "abstained", "wrong")},
            "teacher": None,
        }

    def records(self, blocks: list[ExampleState], indices: list[int]) -> list[dict[str, Any]]:
        """Return a record per example."""
        return self._smoothed(blocks).lines(float(self.threat.eps))

    def counter_examples(self, blocks: list[ExampleState], indices: list[int]) -> dict[str, Tensor]:
        """Return nothing: an image may be too little certified, but no image falsifies a vote."""
        return {}

    def _smoothed(self, blocks: list[ExampleState]) -> Smoothed:
        marks = joined(blocks)
        index, label, selected, votes = (marks[name] for name in ("index", "label", "selected", "votes"))
        return Smoothed(self.noise, index, label, selected, votes, float(marks["seconds"].sum()))
