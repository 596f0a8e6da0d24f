"""Joint bounds of a pair in one call, and their narrowing from both sides: ``bounds.pair`` for benchmarks and tests."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from overproof.bounds.crown import BoundOptions, Method, intermediate
from overproof.bounds.graph import Graph, Layers, join_graphs
from overproof.bounds.pair import PairBounds, bound_gap, bound_pair
from overproof.bounds.region import Bounds, Region
from overproof.bounds.split import Budget


def bound_together(
    teacher: Graph, student: Graph, region: Region, classes: Tensor, options: BoundOptions | Method = "crown"
) -> PairBounds:
    """Bound the pair over the region; ``classes`` is int64 ``[N]``, the class c of each example.

    Joint information comes as bounds on the differences of margins, and as linear cuts between the two logsumexps
    (see ``softmax``); each is one more pass through the final layers only.
    """
    options = BoundOptions(method=options) if isinstance(options, str) else options
    both = join_graphs(teacher, student)
    layers = intermediate(both, region, options)
    return bound_pair(both, region, classes, layers, options)


def narrow(
    both: Graph, region: Region, classes: Tensor, layers: Layers, known: PairBounds, budget: Budget, enough: float = 0.0
) -> PairBounds:
    """Return what is known of one example with better joint bounds, by splitting ReLUs of both networks.

    First the side on which the gap may be larger, until it is no larger than the other or ``enough`` or the time is up;
    then the other side, as far as it pays, and so on.
    """
    started = time.monotonic()
    sides = {False: float(known.joint.upper), True: -float(known.joint.lower)}
    finished: set[bool] = set()
    while (over := max(sides, key=lambda one: sides[one])) not in finished and sides[over] > enough:
        left = budget.seconds - (time.monotonic() - started)
        if left <= 0:
            break
        goal = max(enough, 0.95 * sides[not over])
        within = replace(budget, seconds=left)
        proof = bound_gap(both, region, classes, layers, known, over=over, goal=goal, budget=within)
        sides[over] = min(sides[over], proof.worst)
        if sides[over] > goal:
            finished.add(over)
    like = known.joint.lower
    better = Bounds(torch.full_like(like, -sides[True]), torch.full_like(like, sides[False]))
    return replace(known, joint=known.joint.within(better))
