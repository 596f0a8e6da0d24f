"""Branch and bound on the inputs, for networks of few of them: a box is halved where a bound depends on it most.

With every halving all bounds of the network are tightened, so what holds is proved in the end, whatever the operators
are; but boxes are as many as 2 to the number of inputs, so it is for about 20 inputs at most.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.bounds.crown import BoundOptions, by_interval, intermediate, propagate_to_image, spec_rows
from overproof.bounds.graph import Graph
from overproof.bounds.region import Bounds, Region
from overproof.bounds.split import Proof, Worth, as_numbers

_BOXES = 128  # that are halved at once


def halve(
    graph: Graph,
    box: Bounds,
    spec: Tensor,
    worth: Worth,
    *,
    goal: float,
    seconds: float,
    options: BoundOptions | None = None,
) -> Proof:
    """Halve one box, ``[1, *shape]`` on each side, until the worth is at most ``goal`` everywhere, or the time is up.

    ``spec`` ``[S, K]`` are the rows that ``worth`` needs bounds of, by ``options`` (CROWN). A box that is too small to
    be halved stays as it is.
    """
    until, options = time.monotonic() + seconds, options or BoundOptions()
    lower, weight = _bound(graph, box, spec, options)
    known, parts, settled = _Boxes(box, as_numbers(worth(lower), math.inf), weight), 1, -math.inf
    while True:
        halves, count = _halves(known.box, known.weight), len(known.worth)
        # No number lies between the sides where one of the halves is the whole.
        whole = (halves.upper[:count] == known.box.upper, halves.lower[count:] == known.box.lower)
        open_ = (known.worth > goal) & ~torch.stack([same.flatten(1).all(dim=1) for same in whole]).any(dim=0)
        settled = max([settled, *known.worth[~open_].tolist()])
        left = open_.nonzero().flatten()
        if not len(left) or time.monotonic() > until:
            return Proof(max([settled, *known.worth[left].tolist()]), parts, finished=not len(left))
        order = left[known.worth[left].argsort(descending=True)]
        cut, rest = order[:_BOXES], order[_BOXES:]
        boxes = halves.at(torch.cat([cut, cut + count]))
        lower, weight = _bound(graph, boxes, spec, options)
        fresh = _Boxes(boxes, torch.minimum(as_numbers(worth(lower), math.inf), known.worth[cut].repeat(2)), weight)
        known, parts = known.at(rest).and_(fresh), parts + len(fresh.worth)


@dataclass(frozen=True)
class _Boxes:
    """D boxes, their worth ``[D]``, and how much their bounds depend on each input, ``[D, F]``."""

    box: Bounds
    worth: Tensor
    weight: Tensor

    def at(self, index: Tensor) -> "_Boxes":
        return _Boxes(self.box.at(index), self.worth[index], self.weight[index])

    def and_(self, other: "_Boxes") -> "_Boxes":
        box = Bounds(*(torch.cat(sides) for sides in zip(self.box, other.box, strict=True)))
        return _Boxes(box, torch.cat([self.worth, other.worth]), torch.cat([self.weight, other.weight]))


def _bound(graph: Graph, box: Bounds, spec: Tensor, options: BoundOptions) -> tuple[Tensor, Tensor]:
    """Return lower bounds ``[D, S]`` of the rows in each box, and how much they depend on each input, ``[D, F]``."""
    region, count = Region(box), len(box.lower)
    layers = intermediate(graph, region, options)
    rows = {len(graph.nodes) - 1: spec_rows(spec.to(box.lower).expand(count, *spec.shape))}
    linear = propagate_to_image(graph, rows, layers, options)
    lower = torch.maximum(linear.minimum(region), by_interval(graph, rows, layers, region))
    return as_numbers(lower).view(count, -1), as_numbers(
        linear.weight.abs().view(count, len(spec), -1).amax(dim=1), 0.0
    )


def _halves(boxes: Bounds, weight: Tensor) -> Bounds:
    """Return the lower, then the upper halves of boxes ``[D, *shape]``, cut where weight times width is largest."""
    width = (boxes.upper - boxes.lower).flatten(1)
    place = (weight * width + torch.finfo(width.dtype).tiny * width).argmax(dim=1, keepdim=True)
    middle = boxes.centre.flatten(1).gather(1, place)
    low, high = (side.flatten(1).scatter(1, place, middle).view_as(side) for side in (boxes.lower, boxes.upper))
    return Bounds(torch.cat([boxes.lower, low]), torch.cat([high, boxes.upper]))
