"""Joint bounds of a pair in one call, and their narrowing from both sides: ``bounds.pair`` as tests ask it."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from overproof.bounds.crown import BoundOptions, Method, intermediate
from overproof.bounds.graph import Graph, Layers, joined
from overproof.bounds.pair import Couple, coupled, widest
from overproof.bounds.region import Bounds, Region
from overproof.bounds.split import Budget


def couple(
    teacher: Graph, student: Graph, region: Region, classes: Tensor, means: BoundOptions | Method = "crown"
) -> Couple:
    """Bound the pair over the region; ``classes`` is int64 ``[N]``, the class c of each example.

    Joint information comes as bounds on the differences of margins, and as linear cuts between the two logsumexps
    (see ``softmax``); each is one more pass through the final layers only.
    """
    means = BoundOptions(method=means) if isinstance(means, str) else means
    both = joined(teacher, student)
    layers = intermediate(both, region, means)
    return coupled(both, region, classes, layers, means)


def narrowed(
    both: Graph, region: Region, classes: Tensor, layers: Layers, found: Couple, budget: Budget, enough: float = 0.0
) -> Couple:
    """Return what is known of one example with better joint bounds, by splitting ReLUs of both networks.

    First the side on which the gap may be larger, until it is no larger than the other or ``enough`` or the time is up;
    then the other side, as far as it pays, and so on.
    """
    started = time.monotonic()
    sides = {False: float(found.joint.upper), True: -float(found.joint.lower)}
    finished: set[bool] = set()
    while (over := max(sides, key=lambda one: sides[one])) not in finished and sides[over] > enough:
        left = budget.seconds - (time.monotonic() - started)
        if left <= 0:
            break
        goal = max(enough, 0.95 * sides[not over])
        within = replace(budget, seconds=left)
        proof = widest(both, region, classes, layers, found, over=over, goal=goal, budget=within)
        sides[over] = min(sides[over], proof.worst)
        if sides[over] > goal:
            finished.add(over)
    like = found.joint.lower
    better = Bounds(torch.full_like(like, -sides[True]), torch.full_like(like, sides[False]))
    return replace(found, joint=found.joint.within(better))
