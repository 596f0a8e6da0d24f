"""A softmax inside a network, and the linear functions that hold each probability.

A probability is ``p_i = 1 / S_i`` with ``S_i = sum_j exp(x_j - x_i)``. The reciprocal and the exponentials are convex,
so below p_i there is a tangent of the reciprocal at chords of the exponentials, and above it a chord of the reciprocal
at their tangents (after Shi et al. 2020, Robustness Verification for Transformers).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.activations import Activation
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

_MOST = 300.0  # difference of scores beyond which a probability is held by its range alone: exp(600) is a number yet
NO_SCORE = -1e30
_UNITS = 64  # of float64's last place, of the largest number met: what rounding may do to a height


class Planes(NamedTuple):
    """``below[i] . x + under[i] <= p_i <= above[i] . x + over[i]``: ``[N, ..., T, T]`` and ``[N, ..., T]``."""

    below: Tensor
    under: Tensor
    above: Tensor
    over: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Activation):
    """The softmax along a dimension, counted without the batch, from the end: -1 is the last."""

    dim: int
    _last: list[tuple[Bounds, Planes]] = field(default_factory=list, init=False, repr=False)

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        """Return the exact range: a probability rises with its own score and falls with every other."""
        (given,) = inputs
        if torch.equal(*given):
            value = given.lower.softmax(dim=self.dim)
            return Bounds(value, value)
        (x,) = (Bounds(*(side.movedim(self.dim, -1) for side in each)) for each in inputs)
        return Bounds(
            *(
                _diagonal(_mix(own, others).softmax(dim=-1)).movedim(-1, self.dim)
                for own, others in ((x.lower, x.upper), (x.upper, x.lower))
            )
        )

    @override
    def open(self, before: Bounds) -> Tensor:
        return before.upper > before.lower

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        (x,) = before
        rows = rows.dense(tuple(x.lower.shape[1:]))
        if not self._last or self._last[0][0] is not x:
            self._last[:] = [(x, _planes(Bounds(*(side.movedim(self.dim, -1) for side in x))))]
        planes = self._last[0][1]
        weight = rows.weight.movedim(self.dim, -1)
        below = F.relu(weight)
        above = weight - below
        shift = below * planes.under[rows.example] + above * planes.over[rows.example]
        propagated = torch.zeros_like(weight)
        for number in sorted(set(rows.example.tolist())):  # the planes of an example serve all its rows
            own = rows.example == number
            part = _through(below[own], planes.below[number]) + _through(above[own], planes.above[number])
            propagated = propagated.index_put((own,), part)
        return [rows.plus(shift.flatten(1).sum(dim=1)).with_weight(propagated.movedim(-1, self.dim))]


def convert_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Return what a mask of attention adds to scores; for minus infinity, a number that no score makes up for.

    Where it is the lowest of all, a probability of zero stays one; scores near it have no bounds but 0 and 1.
    """
    if mask.dtype == torch.bool:
        mask = like.new_zeros(()).expand(mask.shape).masked_fill(~mask, -inf)
    return mask.to(like).clamp(min=NO_SCORE)


def _through(weight: Tensor, planes: Tensor) -> Tensor:
    """Return ``sum_i weight[m, ..., i] planes[..., i, j]``."""
    return torch.einsum("m...i,...ij->m...j", weight, planes)


def _mix(own: Tensor, others: Tensor) -> Tensor:
    """Return ``[..., T, T]``: in line i the score i is its own, the others are the others'."""
    itself = torch.eye(own.shape[-1], dtype=torch.bool, device=own.device)
    return torch.where(itself, own[..., None, :], others[..., None, :])


def _diagonal(square: Tensor) -> Tensor:
    return square.diagonal(dim1=-2, dim2=-1)


def _planes(x: Bounds) -> Planes:
    """Return the planes over a box of scores along the last dimension, found in float64."""
    kind = x.lower.dtype
    low, high = x.lower.double(), x.upper.double()
    itself = torch.eye(low.shape[-1], dtype=torch.bool, device=low.device)
    # Differences x_j - x_i, which are 0 for i = j.
    least = (low[..., None, :] - high[..., :, None]).masked_fill(itself, 0)
    most = (high[..., None, :] - low[..., :, None]).masked_fill(itself, 0)
    far = (most > _MOST).any(dim=-1) | (least < -_MOST).any(dim=-1) | ~torch.isfinite(most + least).all(dim=-1)
    least, most = (side.masked_fill(far[..., None], 0) for side in (least, most))
    ends = least.exp(), most.exp()
    width = most - least
    near = width < 1e-9
    chord = torch.where(near, ends[1], (ends[1] - ends[0]) / width.masked_fill(near, 1))
    chord_at_zero = torch.maximum(ends[0] - chord * least, ends[1] - chord * most)
    # A tangent that is positive on the whole interval touches below ``least + 1``.
    touched = torch.minimum((least + most) / 2, least + 0.99)
    tangent = touched.exp()
    tangent_at_zero = tangent * (1 - touched)
    smallest, largest = (side.sum(dim=-1) for side in ends)
    middle = (smallest * largest).sqrt()
    fall = middle.square().reciprocal()
    below = -fall[..., None] * chord.masked_fill(itself, 0)
    under = 2 / middle - fall * (1 + chord_at_zero.masked_fill(itself, 0).sum(dim=-1))
    fall = (smallest * largest).reciprocal()
    above = -fall[..., None] * tangent.masked_fill(itself, 0)
    over = (
        smallest.reciprocal() + largest.reciprocal() - fall * (1 + tangent_at_zero.masked_fill(itself, 0).sum(dim=-1))
    )
    below, above = (_about(side, itself) for side in (below, above))
    range_ = Softmax(dim=-1).forward(Bounds(x.lower.double(), x.upper.double()))
    below, under = _settle(below, under, x, range_.lower, far, kind)
    above, over = _settle(-above, -over, x, -range_.upper, far, kind)
    return Planes(below, under, -above, -over)


def _about(slopes: Tensor, itself: Tensor) -> Tensor:
    """Return slopes along the scores from those along their differences to the own score."""
    return torch.where(itself, -slopes.sum(dim=-1, keepdim=True), slopes)


def _settle(
    slopes: Tensor, height: Tensor, x: Bounds, level: Tensor, far: Tensor, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return planes below rounded to ``kind``, and no higher for it; the level itself where it is higher in the middle.

    ``level`` is nowhere above the function.
    """
    low, high = x.lower.double(), x.upper.double()
    finite = torch.isfinite(low) & torch.isfinite(high)
    size = torch.where(finite, torch.maximum(low.abs(), high.abs()), 0)
    rounded = slopes.to(kind).double()
    loss = torch.einsum("...ij,...j->...i", (rounded - slopes).abs(), size)
    reach = height.abs() + torch.einsum("...ij,...j->...i", slopes.abs(), size) + 1
    unit = _UNITS * slopes.shape[-1] * torch.finfo(torch.float64).eps
    height = height - (loss + unit * reach).detach()
    middle = torch.where(finite, (low + high) / 2, 0)
    at = torch.einsum("...ij,...j->...i", rounded, middle) + height
    worse = far | ~(at > level)
    level = level - unit
    height, slopes = torch.where(worse, level, height), rounded.masked_fill(worse[..., None], 0)
    height = height.to(kind)
    return slopes.to(kind), height - (torch.finfo(kind).eps * height.abs()).detach()
