"""Branch and bound on the signs of ReLUs, within a budget of time (Bunel et al. 2018; beta-CROWN, Wang et al. 2021).

Where a ReLU's input is known to be positive, or negative, the ReLU is linear. So the images of a region are told apart
by the sign of one open input after the other, and each part is bounded by itself, with the bounds of the layers as they
were for the whole. What holds for every part holds for the region, whenever the time is up.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from overproof.bounds.activations import ReLU
from overproof.bounds.crown import spec_rows
from overproof.bounds.graph import Free, Graph, Layers
from overproof.bounds.region import Bounds, Region
from overproof.bounds.slopes import Climb

Worth = Callable[[Tensor], Tensor]
"""From lower bounds ``[D, S]`` of the rows in D parts to what is wanted small ``[D]``; no bound may raise it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to split one example, how many parts to bound at once, and how their slopes and prices are climbed."""

    seconds: float = 5.0
    batch: int = 4
    climb: Climb = Climb(steps=2, rate=0.6)  # noqa: RUF009 - a frozen value


@dataclass(frozen=True)
class Proof:
    """``worst`` is proved of the whole region: the largest worth of its parts, ``parts`` of which were bounded.

    ``finished``: the goal was reached, or nothing was left to split.
    """

    worst: float
    parts: int
    finished: bool


def split(
    graph: Graph, region: Region, layers: Layers, spec: Tensor, worth: Worth, *, goal: float, budget: Budget
) -> Proof:
    """Split one example's region until the worth is at most ``goal`` everywhere, or the time is up.

    ``region`` and ``layers`` are of one example; ``spec`` ``[S, K]`` are the rows that ``worth`` needs bounds of.
    """
    *_, last = splitting(graph, region, layers, spec, worth, goal=goal, budget=budget)
    return last


def splitting(
    graph: Graph, region: Region, layers: Layers, spec: Tensor, worth: Worth, *, goal: float, budget: Budget
) -> Iterator[Proof]:
    """Do the same and yield what is proved after each splitting; the last one is the result.

    No more parts are begun than end in time, as those before them tell.
    """
    started = time.monotonic()
    tree = _Tree(graph, region, layers, spec, worth, budget.climb)
    leaves, parts = tree.root(), 1
    while True:
        passed = max(time.monotonic() - started, 1e-9)
        hopeful = (leaves.worth > goal) & (leaves.branch >= 0)
        pairs = min(budget.batch, int((budget.seconds - passed) / (2 * passed / parts)))
        finished = not bool(hopeful.any())
        yield Proof(float(leaves.worth.max()), parts, finished=finished)
        if finished or pairs < 1:
            return
        worst = torch.where(hopeful, leaves.worth, -torch.inf).argsort(descending=True)[:pairs]
        chosen = worst[hopeful[worst]]
        kept = torch.ones_like(hopeful).index_fill(0, chosen, value=False)
        children = tree.children(leaves.at(chosen))
        parts += len(children)
        leaves = leaves.at(kept).and_(children)


def least(
    graph: Graph, region: Region, layers: Layers, spec: Tensor, lower: Tensor, *, enough: float, budget: Budget
) -> Proof:
    """Prove that every row exceeds ``enough``: ``-worst`` is a lower bound of the least of the rows.

    ``lower`` ``[S]`` are bounds that are known already; rows that they settle are left alone.
    """
    wanted = lower <= enough
    settled = lower[~wanted].amin() if bool((~wanted).any()) else lower.new_tensor(torch.inf)

    def worth(rows: Tensor) -> Tensor:
        return -torch.minimum(torch.maximum(rows, lower[wanted]).amin(dim=1), settled)

    if not bool(wanted.any()):
        return Proof(-float(settled), 0, finished=True)
    # A bound of exactly ``enough`` does not exceed it.
    goal = -math.nextafter(enough, math.inf)
    return split(graph, region, layers, spec[wanted], worth, goal=goal, budget=budget)


@dataclass(frozen=True)
class _Parts:
    """D parts of the region: worth ``[D]``, bounds of the rows ``[D, S]``, signs ``[D, F]``, and what to split next.

    F counts the inputs of all ReLUs. ``branch`` ``[D]`` is one of them, or -1 where no sign is open.
    """

    worth: Tensor
    lower: Tensor
    signs: Tensor
    branch: Tensor

    def __len__(self) -> int:
        return len(self.worth)

    def at(self, index: Tensor) -> "_Parts":
        return _Parts(self.worth[index], self.lower[index], self.signs[index], self.branch[index])

    def and_(self, other: "_Parts") -> "_Parts":
        return _Parts(*(torch.cat([getattr(self, part.name), getattr(other, part.name)]) for part in fields(self)))


@dataclass(frozen=True)
class _Tree:
    graph: Graph
    region: Region
    layers: Layers
    spec: Tensor
    worth: Worth
    climb: Climb

    def root(self) -> _Parts:
        """Return the whole region as one part."""
        like = self.layers[0].lower
        size = sum(self.layers[before].lower.numel() for before in self._inputs().values())
        lower = like.new_full((1, len(self.spec)), -torch.inf)
        none = torch.zeros(1, size, dtype=torch.int8, device=like.device)
        return self._bounded(none, lower, like.new_full((1,), torch.inf))

    def children(self, parts: _Parts) -> _Parts:
        """Return both halves of each part."""
        signs = parts.signs.repeat(2, 1)
        sides = torch.ones_like(parts.branch, dtype=torch.int8)
        signs.scatter_(1, parts.branch.repeat(2)[:, None], torch.cat([sides, -sides])[:, None])
        return self._bounded(signs, parts.lower.repeat(2, 1), parts.worth.repeat(2))

    def _bounded(self, signs: Tensor, lower: Tensor, worth: Tensor) -> _Parts:
        """Return the parts with these signs, bounded by themselves or as what they are parts of."""
        count = len(signs)
        known = self._by_number(signs)
        layers = [Bounds(*(side.expand(count, *side.shape[1:]) for side in layer)) for layer in self.layers]
        for number, before in self._inputs().items():
            low, high = layers[before]
            layers[before] = Bounds(
                torch.where(known[number] > 0, low.clamp(min=0), low),
                torch.where(known[number] < 0, high.clamp(max=0), high),
            )
        rows = spec_rows(self.spec.to(layers[0].lower).expand(count, *self.spec.shape))
        region = self.region.at(torch.zeros(count, dtype=torch.long, device=signs.device))
        free = Free(signs={number: sign.to(layers[0].lower) for number, sign in known.items()})

        def least(free: Free) -> Tensor:
            return self.graph.pull({len(self.graph.nodes) - 1: rows}, layers, free=free)[0].minimum(region)

        lower = torch.maximum(lower, self.climb.best(least, free).view(count, -1))
        value, weight = self._weight(lower)
        return _Parts(torch.minimum(value, worth), lower, signs, self._branch(weight, free, layers, signs))

    def _weight(self, lower: Tensor) -> tuple[Tensor, Tensor]:
        """Return the worth ``[D]`` of bounds ``[D, S]``, and how much of it each bound could take away, ``[D, S]``."""
        with torch.enable_grad():
            tracked = lower.detach().requires_grad_()
            value = self.worth(tracked)
            (gradient,) = torch.autograd.grad(value.sum(), tracked)
        return value.detach(), -gradient

    def _branch(self, weight: Tensor, free: Free, layers: Layers, signs: Tensor) -> Tensor:
        """Return the open input whose chord costs the worth most, ``[D]``; ``weight`` ``[D, S]`` is the rows'."""
        scores = []
        for number, before in self._inputs().items():
            low, high = layers[before]
            height = torch.where((low < 0) & (high > 0), -low * high / (high - low), 0).flatten(1)
            below = (-free.met[number]).clamp(min=0).flatten(1).view(*weight.shape, -1)
            scores.append(torch.einsum("ds,dsf->df", weight, below) * height + 1e-9 * height)
        if not scores:  # a network without ReLUs
            return torch.full(weight.shape[:1], -1, device=weight.device)
        score = torch.cat(scores, dim=1).masked_fill(signs != 0, 0)
        best, place = score.max(dim=1)
        return torch.where(best > 0, place, -1)

    def _inputs(self) -> dict[int, int]:
        """Return what each ReLU reads, by its number."""
        nodes = enumerate(self.graph.nodes)
        return {number: node.inputs[0] for number, node in nodes if isinstance(node.operator, ReLU)}

    def _by_number(self, signs: Tensor) -> dict[int, Tensor]:
        shapes = {number: self.graph.nodes[before].shape for number, before in self._inputs().items()}
        flat = torch.split(signs, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {
            number: part.view(len(signs), *shape) for (number, shape), part in zip(shapes.items(), flat, strict=True)
        }
