"""A student beside its teacher: what an attack shows from below and bounds prove from above, joined into brackets.

Around an image that the teacher classifies correctly, as class c: can the two predict different classes, and how far
can their confidences in c be apart? The questions are those of "Faithful Knowledge Distillation" (Lamb et al. 2023,
arXiv 2306.04431); definitions and certificates are the project's own specification, not the paper's. A student is
(eps, gamma)-faithful around an image where the two agree in the whole region and the gap is at most gamma.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from overproof.bounds.afford import NotAffordedError
from overproof.bounds.crown import BoundOptions, Method, intermediate
from overproof.bounds.graph import Graph, Layers, join_graphs
from overproof.bounds.pair import PairBounds, bound_gap, bound_pair
from overproof.bounds.region import Region
from overproof.bounds.split import Budget
from overproof.certification.cascade import (
    FALSIFIED,
    NO_MEMORY,
    NO_NUMBER,
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
from overproof.certification.pair_attack import affordable, attack_pair
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.state import ExampleState
from overproof.memory import piecewise, ran_out
from overproof.models.classifier import Classifier

_ATTACK = 0.5  # of the time that the student's own certificate left is at most the attack's
_MOST = 0.7  # of the time that is left is given to one stage, so that something can follow it
_MORE = 1.25  # times what was given is what something takes that was given up
_ROOT = 8  # backward passes of the whole region, for a search that optimises twice
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
_CHEAPER: dict[Method, tuple[Method, ...]] = {
    "ibp": ("ibp",),
    "crown_ibp": ("crown_ibp", "ibp"),
    "crown": ("crown", "crown_ibp", "ibp"),
}
"""What is tried, the dearest first: the next one where there is no time for it."""
PAIR_STAGES = ("attack", "crown_ibp", "crown", "split", "agreement")
"""What there may be no time for; bit n of ``unafforded`` is the n-th."""
KINDS = ("attacked", "separate", "joint", "proven")
"""What is known of a gap: attained, and proved in three forms, the last of which is the best."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A teacher and a student: as networks for the attack, as proposals and as one graph for the bounds.

    ``costs`` are the seconds per example that stages took, by their names, or would have taken at least.
    """

    teacher: Classifier
    student: Classifier
    own: Proposal  # the teacher's
    both: Graph
    costs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, teacher: Classifier, student: Classifier, own: Proposal, graph: Graph) -> "Pair":
        """Put together a teacher, its proposal, and a student and its graph; ``InputError`` for different tasks."""
        if teacher.signature != student.signature:
            raise InputError(f"the teacher is for {teacher.signature}, the student for {student.signature}")
        return cls(teacher, student, own, join_graphs(own.graph, graph))


def compare_block(
    pair: Pair, block: Batch, plan: Plan, student: ExampleState, *, seed: int, number: int
) -> Iterator[ExampleState]:
    """Bracket the pair on block ``number`` and yield the state after every step, the same dict each time.

    ``student`` holds the state of the student's own certificate. The state, per example: ``correct`` (the teacher's
    prediction; others do not count), ``under`` (teacher less student) and ``over`` (the opposite), each as
    ``_attacked``, ``_separate``, ``_joint`` and ``_proven`` (the best, split included) float ``[B]``; ``agreement`` is
    a verdict: verified where both networks are, falsified where the attack found a disagreement, whose image is
    ``image``; ``problem`` int64 ``[B]`` says why a gap is an error, and nothing is proved of it; ``cost`` float64
    ``[B]``, seconds; ``unafforded`` int64 ``[B]``, in whose bit n stands whether there was no time for the n-th of
    ``PAIR_STAGES``, or for all of it. An example has the plan's seconds for this and for the student's own certificate.
    Upper bounds include the rounding slack. Where the teacher is wrong, values are NaN.
    """
    given = _ATTACK * float((plan.seconds - student["cost"]).clamp(min=0).sum())
    fewer = affordable(pair.teacher, pair.student, block, given)
    cut: dict[str, Any] = {} if fewer is None else {"steps": fewer[0], "restarts": fewer[1], "seconds": given}
    attacked = attack_pair(pair.teacher, pair.student, block, plan.threat, seed=seed, number=number, **cut)
    correct, like = attacked.correct, attacked.under
    state: ExampleState = {
        "correct": correct,
        "under_attacked": attacked.under,
        "over_attacked": attacked.over,
        **{f"{side}_{kind}": _largest_gap(like) for side in SIDES for kind in KINDS[1:]},
        "agreement": torch.where(correct & ~attacked.agrees, FALSIFIED, UNKNOWN),
        "image": attacked.x_disagree,
        "problem": torch.zeros_like(block.y),
        "unafforded": correct.long() * (fewer is not None),
        "cost": torch.full_like(correct, bool(correct.any()) * attacked.seconds / len(correct), dtype=torch.float64),
    }
    yield state
    certification = _PairCertification(pair, block, plan, student, state)
    yield from certification.gaps()
    yield from certification.agreement(seed, number)


def _largest_gap(like: Tensor) -> Tensor:
    """Return 1, what two confidences cannot exceed; NaN where nothing is asked."""
    return torch.where(like.isnan(), like, 1.0)


@dataclass(frozen=True, eq=False)
class _PairCertification:
    pair: Pair
    block: Batch
    plan: Plan
    student: ExampleState
    state: ExampleState

    def gaps(self) -> Iterator[ExampleState]:
        """Bound the gaps part by part, and split where the bracket is wide."""
        size = batch_size(self.pair.both)
        for rows in torch.split(self.state["correct"].nonzero().flatten(), size):
            left: list[_Known] = []
            with torch.no_grad():
                self._fail(piecewise(partial(self._bounded, left=left), rows, size), NO_MEMORY)
            yield self.state
            if self.plan.reach == "split" and splits(self.pair.both):
                for known in left:
                    for place in (self.state["problem"][known.rows] == 0).nonzero():  # [1] each
                        with torch.no_grad():
                            self._split(known.at(place))
                        yield self.state

    def agreement(self, seed: int, number: int) -> Iterator[ExampleState]:
        """Certify the teacher where that decides whether the two agree: where the student keeps the class."""
        undecided = self.state["correct"] & (self.state["agreement"] == UNKNOWN)
        rows = (undecided & (self.student["verdict"] == VERIFIED)).nonzero().flatten()
        if not len(rows):
            return
        left = self.plan.seconds - self._spent(rows)
        self._not_afforded("agreement", rows[left <= 0])
        rows, left = rows[left > 0], left[left > 0]
        if not len(rows):
            return
        block = Batch(self.block.x[rows], self.block.y[rows])
        plan = replace(self.plan, seconds=float(left.mean()))
        for certified in certify_block(self.pair.own, block, plan, seed=seed, number=number):
            self.state["agreement"][rows[certified["verdict"] == VERIFIED]] = VERIFIED
            yield self.state
        self.state["cost"][rows] += certified["cost"]

    def _spent(self, rows: Tensor) -> Tensor:
        """Return the seconds that these examples have taken, on their student and on the pair, ``[n]``."""
        return self.student["cost"][rows] + self.state["cost"][rows]

    def _left(self, rows: Tensor) -> float:
        """Return the seconds that are left for the examples at ``rows`` together."""
        return float((self.plan.seconds - self._spent(rows)).clamp(min=0).sum())

    def _not_afforded(self, stage: str, rows: Tensor) -> None:
        self.state["unafforded"][rows] |= 1 << PAIR_STAGES.index(stage)

    def _bounded(self, rows: Tensor, left: list["_Known"]) -> None:
        """Write down what is proved of the gaps at ``rows``; add to ``left`` what is known of them."""
        started, region = monotonic(), self._region(rows)
        boxes = intermediate(self.pair.both, region, "ibp")
        rounding = _rounding(boxes)
        self._took(rows, started)
        known = None
        for method in _CHEAPER[_METHOD[self.plan.reach]]:
            started = monotonic()
            known = self._coupled(method, rows, region, boxes, rounding)
            self._took(rows, started)
            if known is not None:
                break
            self._not_afforded(method, rows)
        assert known is not None  # intervals are always afforded
        bounds = known.bounds
        for kind, gap in (("separate", bounds.separate), ("joint", bounds.joint), ("proven", bounds.joint)):
            self._prove(rows, f"under_{kind}", gap.upper + rounding)
            self._prove(rows, f"over_{kind}", rounding - gap.lower)
        bad = [self.state[f"{side}_attacked"][rows] > self.state[f"{side}_proven"][rows] for side in SIDES]
        self._fail(rows[bad[0] | bad[1]], UNSOUND)
        self._fail(rows[(bounds.joint.lower + bounds.joint.upper).isnan()], NO_NUMBER)
        left.append(known)

    def _took(self, rows: Tensor, started: float) -> None:
        self.state["cost"][rows] += (monotonic() - started) / len(rows)

    def _coupled(
        self, method: Method, rows: Tensor, region: Region, boxes: Layers, rounding: Tensor
    ) -> "_Known | None":
        """Return what a method proves of the gaps; None where there is no time for it."""
        given, count, costs = _MOST * self._left(rows), len(rows), self.pair.costs
        if method == "ibp":
            bounds = bound_pair(self.pair.both, region, self.block.y[rows], boxes, BoundOptions(method="ibp"))
            return _Known(rows, region, boxes, bounds, rounding)
        if given <= 0 or costs.get(method, 0.0) * count > given:
            return None
        started = monotonic()
        options = BoundOptions(method=method, until=started + given)
        try:
            layers = intermediate(self.pair.both, region, options) if method == "crown" else boxes
            began = monotonic()
            bounds = bound_pair(self.pair.both, region, self.block.y[rows], layers, options)
        except NotAffordedError:
            costs[method] = max(costs.get(method, 0.0), _MORE * given / count)
            return None
        for name, since in ((method, started), ("coupled", began)):
            costs[name] = min(costs.get(name, inf), (monotonic() - since) / count)
        return _Known(rows, region, layers, bounds, rounding)

    def _split(self, known: "_Known") -> None:
        """Split one example for each side whose bracket is wide, half of the time that is left for each."""
        row = known.rows
        wide = [
            side
            for side in SIDES
            if float(self.state[f"{side}_proven"][row] - self.state[f"{side}_attacked"][row]) > _NEAR
        ]
        if not wide:
            return
        for number, side in enumerate(wide):
            started, seconds = monotonic(), self._left(row) / (len(wide) - number)
            # Intervals alone were afforded, or the root of the search takes too long.
            if _ROOT * self.pair.costs.get("coupled", inf) > seconds:
                self._not_afforded("split", row)
                return
            try:
                proof = bound_gap(
                    self.pair.both,
                    known.region,
                    self.block.y[row],
                    known.layers,
                    known.bounds,
                    over=side == "over",
                    goal=float(self.state[f"{side}_attacked"][row] + _NEAR - known.rounding),
                    budget=Budget(seconds=seconds),
                )
                self._prove(row, f"{side}_proven", known.rounding + proof.worst)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
                if not ran_out(problem):
                    raise  # what was proved before stays
            self._took(row, started)
        bad = [self.state[f"{side}_attacked"][row] > self.state[f"{side}_proven"][row] for side in SIDES]
        self._fail(row[bad[0] | bad[1]], UNSOUND)

    def _region(self, rows: Tensor) -> Region:
        threat = self.plan.threat
        assert threat.norm != "l1"
        return Region.around(self.block.x[rows], float(threat.eps), threat.norm)

    def _prove(self, rows: Tensor, name: str, value: Tensor) -> None:
        self.state[name][rows] = torch.minimum(self.state[name][rows], value)

    def _fail(self, rows: Tensor, problem: int) -> None:
        self.state["problem"][rows] = problem
        for name in (f"{side}_{kind}" for side in SIDES for kind in KINDS[1:]):
            self.state[name][rows] = 1.0


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of the examples at ``rows``: bounds of the layers and of the gaps, ``rounding`` ``[n]``."""

    rows: Tensor
    region: Region
    layers: Layers
    bounds: PairBounds
    rounding: Tensor

    def at(self, keep: Tensor) -> "_Known":
        """Return what is known of those at ``keep``."""
        layers = [bounds.at(keep) for bounds in self.layers]
        gaps = PairBounds(*(getattr(self.bounds, one.name).at(keep) for one in fields(self.bounds)))
        return _Known(self.rows[keep], self.region.at(keep), layers, gaps, self.rounding[keep])


def _rounding(layers: Layers) -> Tensor:
    """Return by how much the rounding of both networks' margins may falsify the difference of confidences, ``[N]``.

    A confidence moves by at most a quarter of what its margins move by; a few units in the last place of 1 come on top.
    """
    both = slack(layers)
    return both / 2 + 16 * torch.finfo(both.dtype).eps
