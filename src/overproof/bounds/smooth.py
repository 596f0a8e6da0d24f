"""Lines that hold a smooth function from below and above over an interval, found soundly in float64.

Any slope s gives a line: its height is the least of ``f(x) - s x``. Where f is convex, tangents of ``f(x) - s x`` hold
that from below, and where it is concave its least value is at an end. So a slope may be found in any way, and the
height that belongs to it is right whatever it is. Of a few slopes the one whose line is the highest in the middle of
the interval is taken, which is the one nearest in area. Above, it is the same for -f.
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
from overproof.bounds.functions import Function, Map, Piece
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

_HALVINGS = 30  # of an interval, for the point where a tangent through its end touches
_UNITS = 64  # of float64's last place, of the largest number met: what rounding may do to a height


class Lines(NamedTuple):
    """``below * x + under <= f(x) <= above * x + over``, each ``[N, *shape]``."""

    below: Tensor
    under: Tensor
    above: Tensor
    over: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Smooth(Activation):
    """A function of one number, elementwise."""

    function: Function
    _last: list[tuple[Bounds, Lines]] = field(default_factory=list, init=False, repr=False)

    @override
    def forward(self, *inputs: Bounds) -> Bounds:
        """Return the exact range."""
        (x,) = inputs
        low, high = self._defined(x)
        turned = [torch.minimum(torch.maximum(low, low.new_tensor(turn)), high) for turn in self.function.turns]
        values = [self.function.value(each) for each in (low, high, *turned)]
        least, most = values[0], values[0]
        for each in values[1:]:
            least, most = torch.minimum(least, each), torch.maximum(most, each)
        unknown = self._unknown(x)
        return Bounds((least - self._short(x)).masked_fill(unknown, -inf), most.masked_fill(unknown, inf))

    @override
    def open(self, before: Bounds) -> Tensor:
        return before.upper > before.lower

    @override
    def propagate_backward(
        self, rows: LinearBounds, before: Sequence[Bounds], slope: Tensor | None = None
    ) -> list[LinearBounds]:
        lines = self.lines(before[0])
        below = F.relu(rows.weight)
        above = rows.weight - below
        shift = _product(below, rows.values(lines.under)) + _product(above, rows.values(lines.over))
        weight = below * rows.values(lines.below) + above * rows.values(lines.above)
        return [rows.plus(shift.flatten(1).sum(dim=1)).with_weight(weight)]

    def lines(self, before: Bounds) -> Lines:
        """Return the lines over these intervals; those of the last intervals asked for are kept."""
        if not self._last or self._last[0][0] is not before:
            self._last[:] = [(before, self._lines(before))]
        return self._last[0][1]

    def _lines(self, before: Bounds) -> Lines:
        f, kind = self.function, before.lower.dtype
        wide = Bounds(*(side.double() for side in self._defined(before)))
        range_ = self.forward(wide)
        below, under = _beneath(f.value, f.convex, wide, range_.lower, kind)
        above, over = _beneath(
            lambda x: -f.value(x),
            [Piece(piece.low, piece.high, lambda x, own=piece.slope: -own(x)) for piece in f.concave],  # type: ignore[misc]
            wide,
            -range_.upper,
            kind,
        )
        unknown = self._unknown(before)
        return Lines(
            below.masked_fill(unknown, 0),
            (under - self._short(before)).masked_fill(unknown, -inf),
            -above.masked_fill(unknown, 0),
            (-over).masked_fill(unknown, inf),
        )

    def _unknown(self, x: Bounds) -> Tensor:
        """Return where an interval holds a point at which the function has no value."""
        low, high = self.function.undefined or (inf, -inf)
        return (x.lower <= high) & (x.upper >= low)

    def _defined(self, x: Bounds) -> Bounds:
        """Return the intervals, at 1 where the function has no value on them, so that no gradient is lost there."""
        if self.function.undefined is None:
            return x
        unknown = self._unknown(x)
        return Bounds(*(side.masked_fill(unknown, 1.0) for side in x))

    def _short(self, x: Bounds) -> Tensor:
        start, short = self.function.short
        return torch.where(x.upper > start, short, 0.0).to(x.upper)


def _product(weight: Tensor, shift: Tensor) -> Tensor:
    """Return the product, 0 where the weight is, though the shift be infinite."""
    return torch.where(weight == 0, 0, weight * shift)


def _beneath(value: Map, convex: Sequence[Piece], x: Bounds, least: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return slopes and heights, of dtype ``kind``, of lines below a function over intervals in float64.

    ``least`` are its least values there: the level line that is taken where no other is better.
    """
    low, high = x
    middle = x.centre
    ends = value(low), value(high)
    parts = [_Part.of(piece, value, x) for piece in convex]
    unit = _UNITS * torch.finfo(torch.float64).eps
    size = ends[0].abs() + ends[1].abs() + 1
    slope, height = torch.zeros_like(low), least - (unit * size).detach()
    best = height
    for chosen, touched, part in [(_secant(low, ends[0], high, ends[1]), None, None), *_slopes(parts, x, ends)]:
        s = chosen.to(kind).double()
        lowest = torch.minimum(ends[0] - s * low, ends[1] - s * high)
        for other in parts:
            lowest = torch.minimum(lowest, other.least(s, touched if other is part else None))
        c = lowest - (unit * (size + s.abs() * (low.abs() + high.abs()))).detach()
        at = s * middle + c
        better = at > best  # never where it is not a number
        slope, height, best = (torch.where(better, *pair) for pair in ((s, slope), (c, height), (at, best)))
    rounded = height.to(kind)
    return slope.to(kind), rounded - (torch.finfo(kind).eps * rounded.abs()).detach()


@dataclass(frozen=True)
class _Part:
    """What of a convex piece lies in each interval: from ``a`` to ``b``, where it is ``there``."""

    piece: Piece
    value: Map
    there: Tensor
    a: Tensor
    b: Tensor
    ends: tuple[tuple[Tensor, Tensor, Tensor], ...]  # place, value and slope at a and at b

    @classmethod
    def of(cls, piece: Piece, value: Map, x: Bounds) -> "_Part":
        there = (x.upper > piece.low) & (x.lower < piece.high)
        # Elsewhere a point of the interval itself, at which everything has a value.
        a = torch.where(there, x.lower.clamp(min=piece.low), x.lower)
        b = torch.where(there, x.upper.clamp(max=piece.high), x.lower)
        return cls(piece, value, there, a, b, tuple((t, value(t), piece.slope(t)) for t in (a, b)))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return t, self.value(t), self.piece.slope(t)

    def least(self, s: Tensor, touched: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        """Return what ``f(x) - s x`` is nowhere below on the piece: the best of its tangents; infinite elsewhere."""
        best = torch.full_like(s, -inf)
        for t, f, slope in (*self.ends, *([touched] if touched is not None else [])):
            rise = slope - s
            bound = f - s * t + torch.minimum(_product(self.a - t, rise), _product(self.b - t, rise))
            best = torch.where(bound > best, bound, best)
        return torch.where(self.there, best, inf)

    def touching(self, end: Tensor, at_end: Tensor, need: Tensor, *, from_low: bool) -> Tensor:
        """Return where a tangent goes through an end outside the piece, or the end of the piece nearest to such."""
        with torch.no_grad():
            point, a, b, f = (each[need] for each in (end, self.a, self.b, at_end))
            for _ in range(_HALVINGS):
                t = (a + b) / 2
                over = self.value(t) + self.piece.slope(t) * (point - t) > f
                forth = over if from_low else ~over
                a, b = torch.where(forth, t, a), torch.where(forth, b, t)
            points = torch.minimum(torch.maximum(end, self.a), self.b)
            return points.masked_scatter(need, (a + b) / 2)


_Touched = tuple[Tensor, Tensor, Tensor]


def _slopes(
    parts: Sequence[_Part], x: Bounds, ends: tuple[Tensor, Tensor]
) -> list[tuple[Tensor, _Touched | None, _Part | None]]:
    """Return slopes worth trying, each with a point of a piece at which it touches or nearly so."""
    slopes: list[tuple[Tensor, _Touched | None, _Part | None]] = []
    for part in parts:
        middle = part.at(torch.minimum(torch.maximum(x.centre, part.a), part.b))
        slopes.append((middle[2], middle, part))
        for end, value, outside, from_low in (
            (x.lower, ends[0], part.piece.low > -inf, True),
            (x.upper, ends[1], part.piece.high < inf, False),
        ):
            need = part.there & ((end < part.a) if from_low else (end > part.b))
            if outside and bool(need.any()):
                touched = part.at(part.touching(end, value, need, from_low=from_low))
                slopes.append((_secant(end, value, touched[0], touched[1]), touched, part))
    return slopes


def _secant(x: Tensor, f: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """Return the slope from one point of a curve to another one; 0 where rounding would decide it."""
    step = y - x
    near = step.abs() <= 1e-9 * (x.abs() + y.abs())
    return torch.where(near, 0, (g - f) / step.masked_fill(near, 1.0))
