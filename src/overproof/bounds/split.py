"""Branch and bound on the signs of ReLUs, within a budget of time (Bunel et al. 2018; beta-CROWN, Wang et al. 2021).

Where a ReLU's input is known to be positive, or negative, the ReLU is linear. So the images of a region are told apart
by the sign of one open input after the other, and each part is bounded by itself, with the bounds of the layers as they
were for the whole. What holds for every part holds for the region, whenever the time is up.

A part goes on from the slopes and betas of the part that it was cut from. What is split next is tried: of the inputs
whose chords cost most, both halves are bounded without an optimiser, and the best pair counts (filtered smart
branching, De Palma et al. 2021).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.activations import ReLU
from overproof.bounds.crown import spec_rows
from overproof.bounds.graph import Graph, Layers, Relaxation
from overproof.bounds.region import Bounds, Region
from overproof.bounds.rounding import Rounding
from overproof.bounds.rows import LinearBounds
from overproof.bounds.slopes import AlphaOptimizer
from overproof.clamp import clamp

_ROOT = 0.3  # of the time is at most the optimiser's for the whole region
_WAITING = 2**31  # bytes that parts may take which wait for being split
_NUMBERS = 2**24  # of the largest layer's values, over all rows and parts that are bounded at once

Worth = Callable[[Tensor], Tensor]
"""From lower bounds ``[D, S]`` of the rows in D parts to what is wanted small ``[D]``; no bound may raise it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to split one example, how many parts to cut at once, and how slopes and betas are optimised.

    ``root`` is the optimiser for the whole region, in 0.3 of the time at most, ``optimizer`` for each part, and
    ``last`` where nothing is left to split. ``tried`` inputs compete for being split next.
    """

    seconds: float = 5.0
    batch: int = 64
    tried: int = 4
    root: AlphaOptimizer = AlphaOptimizer()  # noqa: RUF009 - a frozen value
    optimizer: AlphaOptimizer = AlphaOptimizer(steps=3, rate=0.1)  # noqa: RUF009 - a frozen value
    last: AlphaOptimizer = AlphaOptimizer(steps=200, rate=1.0)  # noqa: RUF009 - a frozen value


@dataclass(frozen=True)
class Proof:
    """``worst`` is proved of the whole region: the largest worth of its parts, ``parts`` of which were bounded.

    ``finished``: the goal was reached, or nothing was left to split.
    """

    worst: float
    parts: int
    finished: bool


def split(
    graph: Graph,
    region: Region,
    layers: Layers,
    spec: Tensor,
    worth: Worth,
    *,
    goal: float,
    budget: Budget,
    rounding: Rounding | None = None,
) -> Proof:
    """Split one example's region until the worth is at most ``goal`` everywhere, or the time is up.

    ``region`` and ``layers`` are of one example; ``spec`` ``[S, K]`` are the rows that ``worth`` needs bounds of. Parts
    are begun only where they end in time, as those before them tell, and while there is memory for those that wait.
    With ``rounding`` what the betas add to the error of a bound is taken off it.
    """
    started = time.monotonic()
    tree = _Tree(graph, region, layers, spec, worth, goal, budget, rounding)
    root = tree.root()
    return _proof_of(tree, root, started, time.monotonic() - started)


def bound_least(
    graph: Graph,
    region: Region,
    layers: Layers,
    spec: Tensor,
    lower: Tensor,
    *,
    enough: float,
    budget: Budget,
    rounding: Rounding | None = None,
) -> Proof:
    """Prove that every row exceeds ``enough``: ``-worst`` is a lower bound of the least of the rows.

    ``lower`` ``[S]`` are bounds that are known already; rows that they settle are left alone. The whole is bounded for
    all others at once; then it is split for one row after the other, the hardest last, as it would hold up the others.
    """
    started = time.monotonic()
    # A bound of exactly ``enough`` does not exceed it.
    goal = -math.nextafter(enough, math.inf)
    wanted, known = (lower <= enough).nonzero().flatten(), lower.clone()
    if not len(wanted):
        return Proof(-float(known.amin()), 0, finished=True)
    tree = _Tree(graph, region, layers, spec[wanted], lambda rows: -rows.amin(dim=1), goal, budget, rounding)
    root = tree.root()
    took = time.monotonic() - started
    known[wanted] = torch.maximum(known[wanted], root.lower[0])
    parts, finished = 1, True
    for place in known[wanted].argsort(descending=True).tolist():
        row = wanted[place]
        if known[row] > enough:
            continue
        one = replace(tree, spec=spec[row : row + 1], worth=partial(_fall, known[row]))
        proof = _proof_of(one, root.of_row(place, -known[row]), started, took)
        known[row], parts, finished = -proof.worst, parts + proof.parts - 1, finished and proof.finished
    return Proof(-float(known.amin()), parts, finished)


def _fall(known: Tensor, rows: Tensor) -> Tensor:
    """Return how far below zero one row may lie, from what is known of it everywhere and bounds ``[D, 1]`` in parts."""
    return -torch.maximum(rows, known)[:, 0]


def _proof_of(tree: "_Tree", leaves: "_Parts", started: float, pair: float) -> Proof:
    """Split the leaves until the goal is reached, or the time, which began when the clock said ``started``.

    ``pair`` are the seconds that two halves may take at first: those of the whole, which is optimised for longer.
    """
    parts, pairs, settled = 1, 0, -math.inf
    began = now = time.monotonic()
    while True:
        # Nothing more is asked of parts at the goal, or without an open sign.
        hopeful = (leaves.worth > tree.goal) & (leaves.signs == 0).any(dim=1)
        settled = max([settled, *leaves.worth[~hopeful].tolist()])
        leaves = leaves.at(hopeful)
        count = min(tree.at_once, int((tree.budget.seconds - now + started) / max(pair, 1e-9)))
        if not len(leaves) or count < 1 or len(leaves) > tree.most_waiting:
            return Proof(max([settled, *leaves.worth.tolist()]), parts, finished=not len(leaves))
        order = leaves.worth.argsort(descending=True)
        children = tree.children(leaves.at(order[:count]))
        leaves = leaves.at(order[count:]).and_(children)
        parts += len(children)
        pairs += len(children) // 2
        now = time.monotonic()
        pair = (now - began) / pairs


@dataclass(frozen=True)
class _Parts:
    """D parts of the region: worth ``[D]``, bounds of the rows ``[D, S]``, signs ``[D, F]``, and how these were found.

    F counts the inputs of ReLUs whose sign is open in the whole. ``slopes`` and ``betas`` ``[D, S, F]`` are where the
    optimiser of the part ended, in half precision: any choice is valid.
    """

    worth: Tensor
    lower: Tensor
    signs: Tensor
    slopes: Tensor
    betas: Tensor

    def __len__(self) -> int:
        return len(self.worth)

    def at(self, index: Tensor) -> "_Parts":
        return _Parts(*(getattr(self, part.name)[index] for part in fields(self)))

    def of_row(self, row: int, worth: Tensor) -> "_Parts":
        """Return the same parts, of this worth, for one row alone."""
        alone = {name: getattr(self, name)[:, row : row + 1] for name in ("lower", "slopes", "betas")}
        return replace(self, worth=worth.expand(len(self)), **alone)

    def and_(self, other: "_Parts") -> "_Parts":
        return _Parts(*(torch.cat([getattr(self, part.name), getattr(other, part.name)]) for part in fields(self)))


@dataclass(frozen=True)
class _Tree:
    graph: Graph
    region: Region
    layers: Layers
    spec: Tensor
    worth: Worth
    goal: float
    budget: Budget
    rounding: Rounding | None

    @cached_property
    def at_once(self) -> int:
        """How many parts are cut at once: what the budget says, or less where the network is large."""
        largest = max(math.prod(node.shape) for node in self.graph.nodes)
        return max(1, min(self.budget.batch, _NUMBERS // (2 * self.budget.tried * len(self.spec) * largest)))

    @cached_property
    def most_waiting(self) -> int:
        """How many parts may wait: each keeps a slope and a beta of two bytes for every row and open input."""
        return _WAITING // max(1, 4 * len(self.spec) * sum(len(places) for places in self._open.values()))

    def root(self) -> _Parts:
        """Return the whole region as one part."""
        like = self.layers[0].lower
        start = torch.cat([like.new_zeros(0), *self._crown()]).expand(1, len(self.spec), -1)
        whole = _Parts(
            worth=like.new_full((1,), torch.inf),
            lower=like.new_full((1, len(self.spec)), -torch.inf),
            signs=torch.zeros(1, start.shape[2], dtype=torch.int8, device=like.device),
            slopes=start,
            betas=torch.zeros_like(start),
        )
        return self._optimised(replace(self.budget.root, seconds=_ROOT * self.budget.seconds), whole)

    def children(self, parts: _Parts) -> _Parts:
        """Return both halves of each part, one after the other."""
        halves = parts.at(torch.arange(len(parts), device=parts.worth.device).repeat_interleave(2))
        places, lower = self._branch(parts)
        signs = _halve(parts.signs, places[:, None])
        bounded = self._optimised(self.budget.optimizer, replace(halves, signs=signs, lower=lower))
        # Where nothing is left to split, the betas alone decide.
        stuck = (bounded.worth > self.goal) & (signs != 0).all(dim=1)
        return (
            bounded.at(~stuck).and_(self._optimised(self.budget.last, bounded.at(stuck)))
            if bool(stuck.any())
            else bounded
        )

    def _optimised(self, optimizer: AlphaOptimizer, parts: _Parts) -> _Parts:
        """Return the parts with these signs, bounded by themselves or as what they are parts of."""
        free, fixed = self._free(parts), self._fixed(parts.signs)
        bounds = optimizer.best(lambda free: self._bounds_of(free, fixed)[0], free, complete=True)
        lower = torch.maximum(parts.lower, as_numbers(bounds).view_as(parts.lower))
        slopes, betas = (
            torch.cat([bounds.new_zeros(len(bounds), 0), *kind.values()], dim=1).view_as(parts.slopes).bfloat16()
            for kind in (free.slopes, free.betas)
        )
        worth = torch.minimum(as_numbers(self.worth(lower), torch.inf), parts.worth)
        return _Parts(worth, lower, parts.signs, slopes, betas)

    def _branch(self, parts: _Parts) -> tuple[Tensor, Tensor]:
        """Return the open input ``[D]`` to split each part at, and bounds ``[2 D, S]`` of its halves."""
        fixed = self._fixed(parts.signs)
        _, met = self._bounds_of(self._free(parts), fixed)
        scores = self._scores(self._weight(parts.lower), met, fixed.layers).masked_fill(parts.signs != 0, -1.0)
        tried = min(self.budget.tried, scores.shape[1])
        top = scores.topk(tried, dim=1)
        # A place that is no candidate of a part is one whose sign is known: its best one is tried twice.
        places = torch.where(top.values < 0, top.indices[:, :1], top.indices)
        signs = _halve(parts.signs.repeat_interleave(tried, dim=0), places.flatten()[:, None])
        index = torch.arange(len(parts), device=signs.device).repeat_interleave(2 * tried)
        bounds, _ = self._bounds_of(self._free(parts.at(index)), self._fixed(signs))
        lower = torch.maximum(parts.lower[index], as_numbers(bounds).view(len(index), -1))
        left = self.worth(lower).clamp(min=self.goal).view(len(parts), tried, 2).sum(dim=2)
        best = left.argmin(dim=1, keepdim=True)
        chosen = lower.view(len(parts), tried, 2, -1).gather(
            1, best[:, :, None, None].expand(-1, -1, 2, lower.shape[1])
        )
        return places.gather(1, best)[:, 0], chosen.flatten(0, 2)

    def _weight(self, lower: Tensor) -> Tensor:
        """Return how much of the worth each of the bounds ``[D, S]`` could take away, ``[D, S]``."""
        with torch.enable_grad():
            tracked = lower.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.worth(tracked).sum(), tracked)
        return -gradient

    def _scores(self, weight: Tensor, met: Mapping[int, Tensor], layers: Layers) -> Tensor:
        """Return what the chord of each open input costs the worth, ``[D, F]``; ``weight`` ``[D, S]`` is the rows'."""
        scores = [weight.new_zeros(len(weight), 0)]
        for number, places in self._open.items():
            low, high = (side.flatten(1)[:, places] for side in layers[self._inputs[number]])
            height = torch.where((low < 0) & (high > 0), -low * high / (high - low), 0)
            below = (-met[number]).clamp(min=0).flatten(1)[:, places].view(*weight.shape, -1)
            scores.append(torch.einsum("ds,dsf->df", weight, below) * height + 1e-9 * height)
        return torch.cat(scores, dim=1)

    def _bounds_of(self, free: Relaxation, fixed: "_Fixed") -> tuple[Tensor, dict[int, Tensor]]:
        """Return lower bounds ``[D S]`` of the rows in parts, and the weights that their ReLUs met."""
        rows = spec_rows(self.spec.to(self.layers[0].lower).expand(fixed.parts, *self.spec.shape))
        full = _Chosen(
            slopes={number: fixed.slopes(number, slopes) for number, slopes in free.slopes.items()},
            betas={number: self._placed(number, betas) for number, betas in free.betas.items()},
            signs=fixed.signs,
        )
        (arrived,) = fixed.graph.propagate_backward({len(self.graph.nodes) - 1: rows}, fixed.layers, free=full).values()
        bounds = replace(arrived, example=torch.zeros_like(arrived.example)).minimum(self.region)
        if self.rounding is not None:
            for number, betas in free.betas.items():
                wrong = self.rounding.beta_error(self._inputs[number]).flatten()[self._open[number]]
                bounds = bounds - betas @ wrong
        return bounds, full.met

    def _fixed(self, signs: Tensor) -> "_Fixed":
        """Return what the optimiser of parts of these signs ``[D, F]`` leaves as it is."""
        layers = [Bounds(*(side.expand(len(signs), *side.shape[1:]) for side in layer)) for layer in self.layers]
        nodes, own, known = list(self.graph.nodes), {}, {}
        for number, part in self._by_number(signs).items():
            before, relu = self._inputs[number], self.graph.nodes[number].operator
            assert isinstance(relu, ReLU)
            (low, high), sign = layers[before], self._placed(number, part)
            layers[before] = Bounds(
                torch.where(sign > 0, low.clamp(min=0), low), torch.where(sign < 0, high.clamp(max=0), high)
            )
            each = [relu.slope(layers[before]), *relu.above(layers[before]), sign.to(low)]
            slope, chord, height, known[number] = (side.repeat_interleave(len(self.spec), dim=0) for side in each)
            nodes[number] = replace(nodes[number], operator=_Lines(leak=relu.leak, chord=chord, height=height))
            own[number] = _Own(slope.flatten(1), self._open[number], relu.leak, known[number])
        return _Fixed(len(signs), Graph(tuple(nodes)), layers, known, own)

    def _free(self, parts: _Parts) -> Relaxation:
        """Return where the optimiser starts: slopes and betas ``[D S, F']`` of open inputs, by their ReLU."""
        like = self.layers[0].lower
        slopes, betas = (kind.to(like).flatten(0, 1) for kind in (parts.slopes, parts.betas))
        return Relaxation(slopes=self._by_number(slopes), betas=self._by_number(betas))

    def _crown(self) -> Iterator[Tensor]:
        """Yield CROWN's slopes ``[F']`` of each ReLU's open inputs."""
        for number, places in self._open.items():
            relu = self.graph.nodes[number].operator
            assert isinstance(relu, ReLU)
            yield relu.slope(self.layers[self._inputs[number]]).flatten()[places]

    @cached_property
    def _inputs(self) -> Mapping[int, int]:
        """What each ReLU reads, by its number."""
        nodes = enumerate(self.graph.nodes)
        return {number: node.inputs[0] for number, node in nodes if isinstance(node.operator, ReLU)}

    @cached_property
    def _open(self) -> Mapping[int, Tensor]:
        """The places ``[F']`` of each ReLU's open inputs, in row-major order."""
        bounds = {number: self.layers[before] for number, before in self._inputs.items()}
        return {
            number: ((low < 0) & (high > 0)).flatten().nonzero().flatten() for number, (low, high) in bounds.items()
        }

    def _by_number(self, flat: Tensor) -> dict[int, Tensor]:
        """Return the parts ``[..., F']`` of ``[..., F]`` by their ReLU."""
        sizes = [len(places) for places in self._open.values()]
        return dict(zip(self._open, torch.split(flat, sizes, dim=-1) if sizes else (), strict=True))

    def _placed(self, number: int, values: Tensor) -> Tensor:
        """Return values ``[M, F']`` of open inputs as maps ``[M, *shape]``, zero elsewhere."""
        shape = self.graph.nodes[self._inputs[number]].shape
        flat = values.new_zeros(len(values), math.prod(shape))
        return flat.index_copy(1, self._open[number], values).view(-1, *shape)


@dataclass(frozen=True, kw_only=True)
class _Chosen(Relaxation):
    """What is chosen for each of the rows in all parts; signs ``[M, *shape]`` are given for each row as well."""

    @override
    def with_betas(self, number: int, rows: LinearBounds) -> LinearBounds:
        if number not in self.signs:
            return rows
        return rows.with_weight(rows.weight - self.betas[number] * self.signs[number])


@dataclass(frozen=True)
class _Own:
    """A ReLU's own slopes ``[D S, size]`` in parts; the places ``[F']`` of open inputs; signs that are known by now."""

    slopes: Tensor
    places: Tensor
    leak: float
    signs: Tensor


@dataclass(frozen=True)
class _Fixed:
    """D parts whose lower slopes and betas are to be chosen: chords, signs and bounds of the layers are not."""

    parts: int
    graph: Graph
    layers: Layers
    signs: Mapping[int, Tensor]
    own: Mapping[int, _Own]

    def slopes(self, number: int, chosen: Tensor) -> Tensor:
        """Return the lower slopes ``[D S, *shape]`` of a ReLU: those chosen ``[D S, F']`` where its sign is open."""
        own = self.own[number]
        open_ = own.signs.flatten(1)[:, own.places] == 0
        values = torch.where(open_, clamp(chosen, low=own.leak), own.slopes[:, own.places])
        return own.slopes.index_copy(1, own.places, values).view_as(own.signs)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lines(ReLU):
    """A ReLU under a line that is known for each row: a chord's slope and its height at zero, ``[M, *shape]``."""

    chord: Tensor
    height: Tensor

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        assert slope is not None
        rows = rows.dense(tuple(self.chord.shape[1:]))
        below = F.relu(rows.weight)
        above = rows.weight - below
        rows = rows.plus((above * self.height).flatten(1).sum(dim=1))
        return [rows.with_weight(below * slope + above * self.chord)]


def as_numbers(bounds: Tensor, nothing: float = -torch.inf) -> Tensor:
    """Return bounds with ``nothing`` where they are not numbers, as where infinite bounds meet: nothing is proved."""
    return torch.where(bounds.isnan(), nothing, bounds)


def _halve(signs: Tensor, places: Tensor) -> Tensor:
    """Return signs ``[2 D, F]`` of both halves of parts ``[D, F]`` that are split at ``places`` ``[D, 1]``."""
    return torch.stack([signs.scatter(1, places, side) for side in (1, -1)], dim=1).flatten(0, 1)
