"""A teacher and a student on one image: how far can the student's confidence be from the teacher's?

Both networks are one graph with one input, so that what they owe to the same change of the image cancels. The question,
the signs and all formulas are the project's own specification of faithful imitation, not the paper's (Lamb et al. 2023,
arXiv 2306.04431), whose construction we do not know.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.bounds.crown import (
    BoundOptions,
    bound_by_crown,
    bound_rows,
    by_interval,
    propagate_to_image,
    spec_rows,
)
from overproof.bounds.graph import Graph, Layers
from overproof.bounds.region import Bounds, Region
from overproof.bounds.softmax import (
    difference_box,
    greatest_difference,
    logsumexp,
    lower_cut,
    secant,
    separate,
    sigmoid_polygon,
    tangent,
    upper_cut,
)
from overproof.bounds.spec import margins
from overproof.bounds.split import Budget, Proof, split

_RATIOS = ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (1.0, 0.0), (0.0, 1.0))
"""Slopes (a, b) of the cuts ``a s_T - b s_S``; the last two bound each network's logsumexp alone."""


@dataclass(frozen=True)
class PairBounds:
    """What was proved of N examples, c a class each: margins ``z_j - z_c`` ``[N, K - 1]`` of both networks, and gaps.

    ``separate`` and ``joint`` are bounds ``[N]`` on ``f_T - f_S``, the difference of the confidences in c, from each
    network's own margins, and with what the two have in common. ``joint`` is never the looser.
    """

    teacher: Bounds
    student: Bounds
    separate: Bounds
    joint: Bounds


def bound_pair(both: Graph, region: Region, classes: Tensor, layers: Layers, options: BoundOptions) -> PairBounds:
    """Bound the pair over the region, from the joined graph and bounds of its layers.

    ``classes`` is int64 ``[N]``, the class c of each example. Joint information comes as bounds on the differences of
    margins, and as linear cuts between the two logsumexps (see ``softmax``); each is one more pass through the final
    layers only.
    """
    t_out, s_out = both.nodes[-1].inputs
    own = margins(classes, both.classes // 2).to(region.box.lower)
    up, down = spec_rows(torch.cat([-own, own], dim=1)), spec_rows(torch.cat([own, -own], dim=1))
    if options.method == "alpha":
        parts = [{t_out: up}, {s_out: up}, {t_out: up, s_out: down}]
        sides = [bound_rows(both, rows, layers, region, options) for rows in parts]
    else:
        sides = [by_interval(both, {out: up}, layers, region) for out in (t_out, s_out)]
        if options.method == "ibp":
            sides.append(by_interval(both, {t_out: up, s_out: down}, layers, region))
        else:  # what a network's rows become at the image serves for its margins and for their differences
            of_t, of_s = (propagate_to_image(both, {out: up}, layers, options) for out in (t_out, s_out))
            swapped = torch.arange(len(up), device=own.device).view(len(own), 2, -1).flip(1).flatten()
            sides = [torch.maximum(b, f.minimum(region)) for b, f in zip(sides, (of_t, of_s), strict=True)]
            sides.append(of_t.add(of_s.at(swapped), both.nodes[0].shape).minimum(region))
    teacher, student, difference = (_both_sides(side.view(len(own), 2, -1)) for side in sides)
    apart = separate(teacher, student)
    together = apart.within(difference_box(teacher, student, difference))
    if options.method != "ibp":
        rows = specs(classes, both.classes // 2)
        together = together.within(_by_cuts(both, region, rows, (teacher, student), layers, options))
    return PairBounds(teacher, student, apart, together)


def _both_sides(least: Tensor) -> Bounds:
    """Return bounds from the least values ``[N, 2, K - 1]`` of quantities and of their negatives."""
    return Bounds(least[:, 0], -least[:, 1])


def bound_gap(
    both: Graph,
    region: Region,
    classes: Tensor,
    layers: Layers,
    known: PairBounds,
    *,
    over: bool,
    goal: float,
    budget: Budget,
) -> Proof:
    """Prove by splitting, for one example, how far the teacher's confidence may lie above the student's.

    With ``over``, how far below. It ends when ``goal`` is reached everywhere.
    """
    rows, boxes = specs(classes, both.classes // 2), (known.teacher, known.student)
    (up_rows, down_rows), (up, down) = (rows[::-1], boxes[::-1]) if over else (rows, boxes)
    question = _Question(up, down)
    return split(both, region, layers, question.spec(up_rows, down_rows), question, goal=goal, budget=budget)


@dataclass(frozen=True)
class _Question:
    """How far the confidence of ``up`` may lie above that of ``down``, both known to lie in boxes of margins.

    Only classes with some weight in a softmax are asked about again in every part.
    """

    up: Bounds
    down: Bounds

    @property
    def asked(self) -> Tensor:
        """The numbers of the margins that matter."""
        share = torch.stack([side.softmax(dim=1) for side in (*self.up, *self.down)]).amax(dim=0)
        return (share > 0.02).any(dim=0).nonzero().squeeze(1)

    def spec(self, up: Tensor, down: Tensor) -> Tensor:
        """Return the rows ``[S, 2 K]`` whose lower bounds the question depends on."""
        asked = self.asked
        up, down = up[0, asked], down[0, asked]
        return torch.cat([up, -down, up - down])

    def __call__(self, lower: Tensor) -> Tensor:
        """Return the greatest difference ``[D]`` that bounds ``[D, S]`` of the rows leave."""
        parts, asked = len(lower), self.asked
        up, down, difference = lower.chunk(3, dim=1)

        def placed(known: Tensor, new: Tensor) -> Tensor:
            return known.expand(parts, -1).index_copy(1, asked, torch.maximum(known[:, asked], new))

        high = Bounds(torch.minimum(placed(self.up.lower, up), self.up.upper), self.up.upper.expand(parts, -1))
        low = Bounds(self.down.lower.expand(parts, -1), torch.maximum(-placed(-self.down.upper, down), self.down.lower))
        return greatest_difference(high, low, placed(self.up.lower - self.down.upper, difference))


def specs(classes: Tensor, of: int) -> tuple[Tensor, Tensor]:
    """Return the rows ``z_j - z_c`` of the teacher and of the student over both's logits, ``[N, K - 1, 2 K]`` each."""
    own = -margins(classes, of)
    none = torch.zeros_like(own)
    return torch.cat([own, none], dim=2), torch.cat([none, own], dim=2)


def _by_cuts(
    both: Graph,
    region: Region,
    rows: tuple[Tensor, Tensor],
    boxes: tuple[Bounds, Bounds],
    layers: Layers,
    options: BoundOptions,
) -> Bounds:
    """Return bounds ``[N]`` on the gap from half planes that hold for the two logsumexps."""
    like = boxes[0].lower
    planes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for sign in (1.0, -1.0):  # what keeps s_T up and s_S down, then what keeps s_T down and s_S up
        (up_rows, down_rows), (up, down) = (rows, boxes) if sign > 0 else (rows[::-1], boxes[::-1])
        p, q = tangent(up), secant(down)
        below = torch.einsum("nj,njk->nk", p, up_rows.to(like)), lower_cut(p)
        above = torch.einsum("nj,njk->nk", q, down_rows.to(like)), upper_cut(down, q)
        for a, b in _RATIOS:
            constant = a * below[1] - (b * above[1] if b else torch.zeros_like(below[1]))
            ends = (a, b) if sign > 0 else (-b, -a)
            full = [torch.full_like(constant, end) for end in ends]
            planes.append((a * below[0] - b * above[0], constant, full[0], full[1]))
    spec, constant, a_t, b_s = (torch.stack(part, dim=1) for part in zip(*planes, strict=True))
    low = bound_by_crown(both, {len(both.nodes) - 1: spec_rows(spec)}, layers, region, options).view(len(like), -1)
    return sigmoid_polygon(logsumexp(boxes[0]), logsumexp(boxes[1]), a_t, b_s, low + constant)
