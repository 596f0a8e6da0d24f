"""A student beside its teacher: what an attack shows from below and bounds prove from above, joined into brackets.

Around an image that the teacher classifies correctly, as class c: can the two predict different classes, and how far
can their confidences in c be apart? The questions are those of "Faithful Knowledge Distillation" (Lamb et al. 2023,
arXiv 2306.04431); definitions and certificates are the project's own specification, not the paper's. A student is
(eps, gamma)-faithful around an image where the two agree in the whole region and the gap is at most gamma.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from overproof.bounds.crown import Means, Method, intermediate
from overproof.bounds.graph import Graph, Layers, joined
from overproof.bounds.pair import coupled, widest
from overproof.bounds.region import Region
from overproof.bounds.split import Budget
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.certified import (
    FALSIFIED,
    NO_NUMBER,
    NO_ROOM,
    UNKNOWN,
    UNSOUND,
    VERIFIED,
    Plan,
    Proposal,
    Reach,
    batch_size,
    certify_block,
    slack,
    splits,
)
from overproof.evaluation.imitation import attack_pair
from overproof.evaluation.marks import Marks
from overproof.memory import piecewise, ran_out
from overproof.models.classifier import Classifier

_NEAR = 0.005  # a bracket of the gap that is this narrow is not split further
SIDES = ("under", "over")
"""The student less sure than the teacher, and surer."""
_METHOD: dict[Reach, Method] = {
    "ibp": "ibp",
    "crown_ibp": "crown_ibp",
    "crown": "crown",
    "alpha": "crown",
    "split": "crown",
}
KINDS = ("attacked", "separate", "joint", "proven")
"""What is known of a gap: attained, and proved in three forms, the last of which is the best."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A teacher and a student: as networks for the attack, as proposals and as one graph for the bounds."""

    teacher: Classifier
    student: Classifier
    own: Proposal  # the teacher's
    both: Graph

    @classmethod
    def of(cls, teacher: Classifier, student: Classifier, own: Proposal, graph: Graph) -> "Pair":
        """Put together a teacher, its proposal, and a student and its graph; ``InputError`` for different tasks."""
        if teacher.signature != student.signature:
            raise InputError(f"the teacher is for {teacher.signature}, the student for {student.signature}")
        return cls(teacher, student, own, joined(own.graph, graph))


def compare_block(pair: Pair, block: Batch, plan: Plan, student: Marks, *, seed: int, number: int) -> Iterator[Marks]:
    """Bracket the pair on block ``number`` and yield the marks after every step, the same dict each time.

    ``student`` holds the marks of the student's own certificate. The marks, per example: ``correct`` (the teacher's
    prediction; others do not count), ``under`` (teacher less student) and ``over`` (the opposite), each as
    ``_attacked``, ``_separate``, ``_joint`` and ``_proven`` (the best, split included) float ``[B]``; ``agreement`` is
    a verdict: verified where both networks are, falsified where the attack found a disagreement, whose image is
    ``image``; ``problem`` int64 ``[B]`` says why a gap is an error, and nothing is proved of it; ``cost`` float64
    ``[B]``, seconds. Upper bounds include the rounding slack. Where the teacher is wrong, values are NaN.
    """
    found = attack_pair(pair.teacher, pair.student, block, plan.threat, seed=seed, number=number)
    correct, like = found.correct, found.under
    count = correct.sum().clamp(min=1)
    marks: Marks = {
        "correct": correct,
        "under_attacked": found.under,
        "over_attacked": found.over,
        **{f"{side}_{kind}": _unproved(like) for side in SIDES for kind in KINDS[1:]},
        "agreement": torch.where(correct & ~found.agrees, FALSIFIED, UNKNOWN),
        "image": found.x_disagree,
        "problem": torch.zeros_like(block.y),
        "cost": correct.double() * (found.seconds / count),
    }
    yield marks
    course = _Course(pair, block, plan, student, marks)
    yield from course.gaps()
    yield from course.agreement(seed, number)


def _unproved(like: Tensor) -> Tensor:
    """Return 1, what two confidences cannot exceed; NaN where nothing is asked."""
    return torch.where(like.isnan(), like, 1.0)


@dataclass(frozen=True, eq=False)
class _Course:
    pair: Pair
    block: Batch
    plan: Plan
    student: Marks
    marks: Marks

    def gaps(self) -> Iterator[Marks]:
        """Bound the gaps, part by part, then split where the bracket is wide."""
        size = batch_size(self.pair.both)
        for rows in torch.split(self.marks["correct"].nonzero().flatten(), size):
            with torch.no_grad():
                self._fail(piecewise(self._bounded, rows, size), NO_ROOM)
            yield self.marks
        if self.plan.reach == "split" and splits(self.pair.both):
            open_ = self.marks["correct"] & (self.marks["problem"] == 0)
            for row in open_.nonzero():  # [1] each
                with torch.no_grad():
                    self._split(row)
                yield self.marks

    def agreement(self, seed: int, number: int) -> Iterator[Marks]:
        """Certify the teacher where that decides whether the two agree: where the student keeps the class."""
        undecided = self.marks["correct"] & (self.marks["agreement"] == UNKNOWN)
        rows = (undecided & (self.student["verdict"] == VERIFIED)).nonzero().flatten()
        if not len(rows):
            return
        block = Batch(self.block.x[rows], self.block.y[rows])
        for found in certify_block(self.pair.own, block, self.plan, seed=seed, number=number):
            self.marks["agreement"][rows[found["verdict"] == VERIFIED]] = VERIFIED
            yield self.marks
        self.marks["cost"][rows] += found["cost"]

    def _bounded(self, rows: Tensor) -> None:
        """Write down what is proved of the gaps at ``rows``."""
        started = monotonic()
        region = self._region(rows)
        means = Means(method=_METHOD[self.plan.reach])
        layers = intermediate(self.pair.both, region, "ibp")
        rounding = _rounding(layers)
        if means.method == "crown":
            layers = intermediate(self.pair.both, region, means)
        found = coupled(self.pair.both, region, self.block.y[rows], layers, means)
        for kind, gap in (("separate", found.separate), ("joint", found.joint), ("proven", found.joint)):
            self._prove(rows, f"under_{kind}", gap.upper + rounding)
            self._prove(rows, f"over_{kind}", rounding - gap.lower)
        self.marks["cost"][rows] += (monotonic() - started) / len(rows)
        bad = [self.marks[f"{side}_attacked"][rows] > self.marks[f"{side}_proven"][rows] for side in SIDES]
        self._fail(rows[bad[0] | bad[1]], UNSOUND)
        self._fail(rows[(found.joint.lower + found.joint.upper).isnan()], NO_NUMBER)

    def _split(self, row: Tensor) -> None:
        """Split one example for each side whose bracket is wide, half of the time for each."""
        wide = [
            side
            for side in SIDES
            if float(self.marks[f"{side}_proven"][row] - self.marks[f"{side}_attacked"][row]) > _NEAR
        ]
        if not wide:
            return
        started, region = monotonic(), self._region(row)
        try:
            rounding = _rounding(intermediate(self.pair.both, region, "ibp"))
            layers = intermediate(self.pair.both, region, "crown")
            known = coupled(self.pair.both, region, self.block.y[row], layers, Means(method="crown"))
            for side in wide:
                goal = float(self.marks[f"{side}_attacked"][row] + _NEAR - rounding)
                found = widest(
                    self.pair.both,
                    region,
                    self.block.y[row],
                    layers,
                    known,
                    over=side == "over",
                    goal=goal,
                    budget=Budget(seconds=self.plan.seconds / len(wide)),
                )
                self._prove(row, f"{side}_proven", rounding + found.worst)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not ran_out(problem):
                raise  # what was proved before stays
        self.marks["cost"][row] += monotonic() - started
        bad = [self.marks[f"{side}_attacked"][row] > self.marks[f"{side}_proven"][row] for side in SIDES]
        self._fail(row[bad[0] | bad[1]], UNSOUND)

    def _region(self, rows: Tensor) -> Region:
        threat = self.plan.threat
        assert threat.norm != "l1"
        return Region.around(self.block.x[rows], float(threat.eps), threat.norm)

    def _prove(self, rows: Tensor, name: str, value: Tensor) -> None:
        self.marks[name][rows] = torch.minimum(self.marks[name][rows], value)

    def _fail(self, rows: Tensor, problem: int) -> None:
        self.marks["problem"][rows] = problem
        for name in (f"{side}_{kind}" for side in SIDES for kind in KINDS[1:]):
            self.marks[name][rows] = 1.0


def _rounding(layers: Layers) -> Tensor:
    """Return by how much the rounding of both networks' margins may falsify the difference of confidences, ``[N]``.

    A confidence moves by at most a quarter of what its margins move by; a few units in the last place of 1 come on top.
    """
    both = slack(layers)
    return both / 2 + 16 * torch.finfo(both.dtype).eps
