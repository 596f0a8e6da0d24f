"""Products of two layers that both depend on the image: elementwise, or summed as in a product of matrices.

With centres c and radii r, ``(a - a_c) (b - b_c)`` is between ``-a_r b_r`` and ``a_r b_r``. So a product is held by
one linear function, ``b_c a + a_c b - a_c b_c``, from both sides: the mean of the two planes of McCormick (1976) on a
side, and like each of them as near to the product as a plane can be in volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from overproof.bounds.activations import Activation
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

_AT_ONCE = 2**22  # products that are made at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Bilinear(Activation):
    """Sums of products of two layers, as ``torch.einsum`` writes them: the first, the second and the output.

    ``("hik", "hkj", "hij")`` is a product of matrices for every h. Each letter of one layer is in the other one or in
    the output. What is known of the output otherwise, that it is within [-limit, limit], may be said.
    """

    terms: tuple[str, str, str]
    limit: float = inf

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        """Return the sums of the exact ranges of the products."""
        first, second = inputs
        first_term, second_term, out = self.terms
        if all(torch.equal(*x) for x in inputs):
            value = torch.einsum(f"Z{first_term},Z{second_term}->Z{out}", first.lower, second.lower)
            return Bounds(value, value)
        sizes = dict(zip(first_term + second_term, (*first.lower.shape[1:], *second.lower.shape[1:]), strict=True))
        portion = max(1, _AT_ONCE // max(1, prod(sizes.values())))
        if len(first.lower) > portion:
            pieces = torch.split(torch.arange(len(first.lower), device=first.lower.device), portion)
            parts = [self.forward(first.at(part), second.at(part)) for part in pieces]
            return Bounds(*(torch.cat(sides) for sides in zip(*parts, strict=True)))
        summed = "".join(letter for letter in sizes if letter not in out)
        equation = f"Z{first_term},Z{second_term}->Z{out}{summed}"
        corners = torch.stack([torch.einsum(equation, a, b) for a in first for b in second])
        lower, upper = corners.amin(dim=0), corners.amax(dim=0)
        if summed:
            last = tuple(range(-len(summed), 0))
            lower, upper = lower.sum(dim=last), upper.sum(dim=last)
        # Zero times infinity: nothing is known.
        lower, upper = lower.masked_fill(lower.isnan(), -inf), upper.masked_fill(upper.isnan(), inf)
        return (
            Bounds(lower.clamp(min=-self.limit), upper.clamp(max=self.limit))
            if self.limit < inf
            else Bounds(lower, upper)
        )

    @override
    def open(self, before: Bounds) -> Tensor:
        return before.upper > before.lower

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        first, second = before
        first_term, second_term, out = self.terms
        equation = f"Z{first_term},Z{second_term}->Z{out}"
        middle = torch.einsum(equation, first.centre, second.centre)
        reach = torch.einsum(equation, first.radius, second.radius)
        rows = rows.dense(tuple(middle.shape[1:]))
        if self.limit < inf:
            rows = self._limited(rows, middle, reach)
        shift = -rows.dot(middle) - rows.with_weight(rows.weight.abs()).dot(reach)
        of_first = torch.einsum(f"Z{out},Z{second_term}->Z{first_term}", rows.weight, second.centre[rows.example])
        of_second = torch.einsum(f"Z{out},Z{first_term}->Z{second_term}", rows.weight, first.centre[rows.example])
        return [
            replace(rows, weight=of_first, bias=rows.bias + shift),
            replace(rows, weight=of_second, bias=torch.zeros_like(rows.bias)),
        ]

    def _limited(self, rows: LinearBounds, middle: Tensor, reach: Tensor) -> LinearBounds:
        """Return rows without the outputs that are better held by the limit, which is taken off their bias."""
        below = F.relu(rows.weight)
        above = rows.weight - below
        low = rows.values((middle - reach < -self.limit).to(middle))
        high = rows.values((middle + reach > self.limit).to(middle))
        gone = (below * low - above * high).flatten(1).sum(dim=1)
        return replace(rows, weight=below * (1 - low) + above * (1 - high), bias=rows.bias - self.limit * gone)
