"""Deciding a query: is there an input in a box whose outputs satisfy linear inequalities?

``sat`` comes with an input that was tried; ``unsat`` is a proof that there is none; ``unknown`` is neither in the time.
A short search for a counter-example comes first; then CROWN, a longer search, tighter bounds of the layers, and branch
and bound: on ReLUs, one inequality after the other, or on the inputs where these are few. What time is left goes to
another search.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from overproof.bounds.afford import NotAffordedError
from overproof.bounds.crown import BoundOptions, bound_by_crown, intermediate, spec_rows
from overproof.bounds.graph import Graph, Layers, Node
from overproof.bounds.halving import halve
from overproof.bounds.operators import Linear
from overproof.bounds.region import Bounds, Region, outward
from overproof.bounds.rounding import Rounding, prove_rounding
from overproof.bounds.split import Budget, as_numbers, bound_least, split
from overproof.certification.cascade import TIGHT, TIGHTEN, slack
from overproof.certification.falsifier import Falsifier
from overproof.certification.query import Answer, Case

_QUICK, _LONG = 2, 20  # restarts of a search for counter-examples, each for all cases at once
_FALSIFY = 0.15  # of the time is at most the longer search's
_PROVE = 0.85  # of the time after which nothing is proved any more, where the last search has something to do
_FEW = 20  # inputs at most are halved before ReLUs are split
_TIGHTER = 0.4  # of the time that is left is at most that of tighter layers


def verify(
    network: nn.Module,
    graph: Graph,
    cases: Sequence[Case],
    *,
    seconds: float,
    confirm: Callable[[int, Tensor], bool],
    seed: int = 0,
) -> Answer:
    """Decide within ``seconds`` whether any of the cases has a counter-example.

    ``network`` maps float32 inputs ``[N, *shape]`` to outputs ``[N, K]``, with gradients; ``graph`` is its graph, in
    whose precision bounds are computed. ``confirm`` says of a case's number and an input of float32 in its box whether
    it is a counter-example; what it denies is not believed.
    """
    started = monotonic()
    search = Falsifier(network, cases, confirm, torch.Generator().manual_seed(seed))
    open_, parts = list(range(len(cases))), 0
    if (answer := search.find_counterexample(open_, _QUICK)) is not None:
        return answer
    proofs = [_Proof(graph, [cases[number] for number in group], group) for group in _boxes(cases)]
    until = started + seconds
    try:
        with torch.no_grad():
            for proof in proofs:
                proof.crown(until)
            open_ = [number for proof in proofs for number in proof.open]
            if (
                answer := search.find_counterexample(open_, _LONG, until=monotonic() + _FALSIFY * (until - monotonic()))
            ) is not None:
                return answer
            for number, proof in enumerate(proofs):
                if proof.open:
                    end = started + _PROVE * seconds
                    share = (end - monotonic()) / (len(proofs) - number)
                    if proof.inputs <= _FEW:
                        proof.halve(monotonic() + share / 2)
                        share /= 2
                    if proof.open:
                        proof.split(monotonic() + share)
                    parts += proof.parts
    except NotAffordedError:
        pass
    open_ = [number for proof in proofs for number in proof.open]
    if not open_:
        return Answer("unsat", parts=parts)
    while monotonic() < until:
        if (answer := search.find_counterexample(open_, _LONG, until=until)) is not None:
            return replace(answer, parts=parts)
    return Answer("unknown", parts=parts)


def _boxes(cases: Sequence[Case]) -> list[list[int]]:
    """Return the numbers of the cases, those of one box together."""
    groups: list[list[int]] = []
    for number, case in enumerate(cases):
        for group in groups:
            first = cases[group[0]]
            if torch.equal(first.lower, case.lower) and torch.equal(first.upper, case.upper):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


@dataclass(eq=False)
class _Proof:
    """What is proved of the cases of one box: ``open`` are those (by their numbers in the query) that are not."""

    graph: Graph
    cases: Sequence[Case]
    open: list[int]
    parts: int = 0

    def __post_init__(self) -> None:
        self._numbers = list(self.open)
        like = _numbers(self.graph)
        self._sizes = [len(case.bias) for case in self.cases]
        # A counter-example of a case is where none of its outputs here is positive.
        weight, bias = (
            -torch.cat([getattr(case, name) for case in self.cases]).to(like) for name in ("weight", "bias")
        )
        last = len(self.graph.nodes) - 1
        self.graph = Graph(
            (*self.graph.nodes, Node(Linear(weight=weight, bias=bias), (last,), (len(bias),), "the query"))
        )
        case = self.cases[0]
        self._region = Region(
            Bounds(outward(case.lower, like, down=True)[None], outward(case.upper, like, down=False)[None])
        )
        self._spec = torch.eye(len(bias)).to(like)
        self._lower = bias.new_full((len(bias),), -inf)
        self._layers: Layers = []
        self._took = 0.0

    @property
    def inputs(self) -> int:
        """How many inputs are not single numbers."""
        return int((self._region.box.lower < self._region.box.upper).sum())

    def crown(self, until: float) -> None:
        """Bound everything by CROWN, then by alpha-CROWN."""
        started = monotonic()
        self._layers = intermediate(self.graph, self._region, self._bound_options(until=until))
        self._bounded(self._bound_options(until=until))
        self._took = monotonic() - started
        if self.open:
            self._bounded(self._bound_options(method="alpha", until=until))

    def _bound_options(self, **given: Any) -> BoundOptions:
        """Return how to bound; in float64 the layers are widened by what rounding may have done."""
        return BoundOptions(rounding=self._region.box.lower.dtype == torch.float64, **given)

    def _enough(self) -> tuple[float, Rounding | None]:
        """Return what a bound must exceed to count, and what rounding does to those with betas.

        In float64 it is a theorem, where every operator is covered. Else it is a margin of safety that is tested:
        twice the slack, for the betas of the signs are one more sum.
        """
        rounding = prove_rounding(self.graph, self._region, self._layers)
        if rounding is not None and rounding.last is not None:
            return rounding.last, rounding
        return 2 * float(slack(self._layers)), None

    def halve(self, until: float) -> None:
        """Halve the box for one case after the other."""
        enough, _ = self._enough()
        for number, rows in [(n, r) for n, r in self._by_number() if n in self.open]:
            seconds, worth = max(0.0, until - monotonic()), partial(_fall, self._lower[rows])
            given: dict[str, Any] = {"goal": -enough, "seconds": seconds, "options": self._bound_options()}
            proof = halve(self.graph, self._region.box, self._spec[rows], worth, **given)
            self.parts += proof.parts
            if proof.worst < -enough:
                self.open.remove(number)

    def split(self, until: float) -> None:
        """Tighten the layers where there is time, and split what is still open at ReLUs."""
        if TIGHTEN * self._took < _TIGHTER * (until - monotonic()):
            options = self._bound_options(method="alpha", optimizer=TIGHT, until=until)
            self._layers = intermediate(self.graph, self._region, options, known=self._layers)
            self._bounded(self._bound_options(method="alpha", until=until))
        single = [row for row in self._rows_left() if len(row) == 1]
        enough, rounding = self._enough()
        if single:
            rows = torch.cat(single)
            budget = Budget(seconds=max(0.0, until - monotonic()))
            proof = bound_least(
                self.graph,
                self._region,
                self._layers,
                self._spec[rows],
                self._lower[rows],
                enough=enough,
                budget=budget,
                rounding=rounding,
            )
            self.parts += proof.parts
            self._lower[rows] = self._lower[rows].clamp(min=-proof.worst)
        for number, rows in [(n, r) for n, r in self._by_number() if n in self.open and len(r) > 1]:
            budget = Budget(seconds=max(0.0, until - monotonic()))
            worth = partial(_fall, self._lower[rows])
            given: dict[str, Any] = {"goal": -enough, "budget": budget, "rounding": rounding}
            proof = split(self.graph, self._region, self._layers, self._spec[rows], worth, **given)
            self.parts += proof.parts
            if proof.worst < -enough:
                self.open.remove(number)
        self._settle(enough)

    def _bounded(self, options: BoundOptions) -> None:
        """Bound the rows of the open cases."""
        rows = torch.cat(self._rows_left())
        low = bound_by_crown(
            self.graph,
            {len(self.graph.nodes) - 1: spec_rows(self._spec[rows][None])},
            self._layers,
            self._region,
            options,
        )
        self._lower[rows] = torch.maximum(self._lower[rows], as_numbers(low))
        self._settle(self._enough()[0])

    def _settle(self, enough: float) -> None:
        self.open = [
            n for n, rows in self._by_number() if n in self.open and not float(self._lower[rows].max()) > enough
        ]

    def _by_number(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each case's number and its rows."""
        yield from zip(self._numbers, torch.split(torch.arange(sum(self._sizes)), self._sizes), strict=True)

    def _rows_left(self) -> list[Tensor]:
        return [rows for number, rows in self._by_number() if number in self.open]


def _numbers(graph: Graph) -> Tensor:
    """Return a tensor in the precision of a graph's constants; float32 where it has none."""
    operators = [node.operator for node in graph.nodes if node.operator is not None]
    constants = [getattr(operator, field.name) for operator in operators for field in fields(operator)]
    return next((each for each in constants if isinstance(each, Tensor) and each.is_floating_point()), torch.zeros(()))


def _fall(known: Tensor, rows: Tensor) -> Tensor:
    """Return how far below zero the best of several rows may lie, from bounds ``[D, R]`` in parts."""
    return -torch.maximum(rows, known).amax(dim=1)
