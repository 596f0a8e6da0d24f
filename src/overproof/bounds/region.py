"""Where an input may be: a box of pixels, or the part of an l2 ball that lies in it; and bounds as a pair."""

from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor


class Bounds(NamedTuple):
    """``lower <= value <= upper``, elementwise; two tensors of one shape."""

    lower: Tensor
    upper: Tensor

    @property
    def centre(self) -> Tensor:
        """The middle, of the bounds' shape."""
        return (self.upper + self.lower) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width, of the bounds' shape."""
        return (self.upper - self.lower) / 2

    def at(self, index: Tensor | slice) -> "Bounds":
        """Return the bounds of the examples at ``index``."""
        return Bounds(self.lower[index], self.upper[index])

    def within(self, other: "Bounds") -> "Bounds":
        """Return the better of two valid bounds, elementwise.

        Rounding may leave two bounds of one point a hair apart in the wrong order; then both become the other's.
        """
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        return Bounds(torch.minimum(lower, upper), torch.maximum(lower, upper))


@dataclass(frozen=True)
class Region:
    """For each of N examples the images within ``box``, and within ``eps`` of ``centre`` in l2 where these are given.

    ``box`` and ``centre`` are ``[N, C, H, W]``.
    """

    box: Bounds
    centre: Tensor | None = None
    eps: float = 0.0

    @classmethod
    def around(cls, x: Tensor, eps: float, norm: Literal["linf", "l2"] = "linf") -> Self:
        """Return the ball of radius ``eps`` around pixels ``[N, C, H, W]``, intersected with [0, 1]."""
        box = Bounds((x - eps).clamp(min=0), (x + eps).clamp(max=1))
        return cls(box) if norm == "linf" else cls(box, x, float(eps))

    def __len__(self) -> int:
        return len(self.box.lower)

    def at(self, index: Tensor | slice) -> "Region":
        """Return the region of the examples at ``index``."""
        return Region(self.box.at(index), None if self.centre is None else self.centre[index], self.eps)

    def to(self, *, dtype: torch.dtype) -> "Region":
        """Return the region in another precision."""
        centre = None if self.centre is None else self.centre.to(dtype)
        return Region(Bounds(*(side.to(dtype) for side in self.box)), centre, self.eps)


def outward(side: Tensor, like: Tensor, *, down: bool) -> Tensor:
    """Return a side of a box in the precision of ``like``, rounded away from the box."""
    rounded = side.to(like)
    beyond = rounded.nextafter(torch.full_like(rounded, -inf if down else inf))
    inside = rounded.double() > side if down else rounded.double() < side
    return torch.where(inside, beyond, rounded)
