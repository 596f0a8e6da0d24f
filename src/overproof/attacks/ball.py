"""The norm geometry of a threat model, once per norm: project, step, start, measure.

All functions take images ``[N, ...]`` with pixels in [0, 1] and stay inside the ball *and* inside [0, 1].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Self

import torch
from torch import Tensor
from typing_extensions import override

Norm = Literal["linf", "l2", "l1"]


class Radius(float):
    """A positive length in pixel space that remembers how it was written: ``Radius("8/255")`` prints ``8/255``."""

    text: str

    def __new__(cls, written: "str | float") -> Self:
        """Read ``8/255``, ``0.031``, ``1e-2`` or a number; raise ``ValueError`` unless it is positive and finite."""
        text = written.text if isinstance(written, Radius) else str(written).replace(" ", "")
        try:
            value = float(Fraction(text))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"cannot read {text!r} as a length; write it as 8/255 or 0.031") from None
        if not value > 0:
            raise ValueError(f"a length must be positive, got {text}")
        radius = super().__new__(cls, value)
        radius.text = text
        return radius

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Radius({self.text!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:  # copies and pickles keep the text
        return type(self), (self.text,)


def check_eps(norm: str, eps: float) -> None:
    """Raise ``ValueError`` with the right spelling where an linf eps cannot be meant in [0, 1] pixels."""
    if norm == "linf" and eps > 1:
        raise ValueError(f"eps {eps} is not in [0, 1] pixel units; did you mean {eps:g}/255?")


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What an adversary may do: change an image by at most ``eps`` in a norm, within [0, 1]."""

    norm: Norm = "linf"
    eps: Radius = Radius("8/255")  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        check_eps(self.norm, self.eps)


@dataclass(frozen=True)
class Ball(ABC):
    """All images within ``eps`` of a clean image in one norm, and within [0, 1]."""

    eps: float

    @abstractmethod
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Return a point of the ball around ``x`` near ``z`` (the nearest one for linf and l1), ``[N, ...]``."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of length one that climbs the gradient ``[N, ...]`` fastest in this norm."""

    @abstractmethod
    def uniform(self, x: Tensor) -> Tensor:
        """Return perturbations ``[N, ...]`` drawn uniformly from the ball before its intersection with [0, 1]."""

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each perturbation, ``[N]``."""


class Linf(Ball):
    """max |delta| <= eps."""

    @override
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, x - self.eps), x + self.eps).clamp_(0, 1)

    @override
    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    @override
    def uniform(self, x: Tensor) -> Tensor:
        return torch.empty_like(x).uniform_(-self.eps, self.eps)

    @override
    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(dim=1)


class L2(Ball):
    """Euclidean length of delta <= eps."""

    @override
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        # Scaling first and clipping second stays in the ball: x is in [0, 1], so clipping only moves towards x.
        delta = z - x
        shrink = (self.eps / self.size(delta).clamp_min(1e-12)).clamp(max=1)
        return (x + delta * _per_example(shrink, x)).clamp_(0, 1)

    @override
    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient / _per_example(self.size(gradient).clamp_min(1e-12), gradient)

    @override
    def uniform(self, x: Tensor) -> Tensor:
        dimensions = x[0].numel()
        radius = self.eps * torch.rand(len(x), dtype=x.dtype, device=x.device) ** (1 / dimensions)
        return self.steepest(torch.randn_like(x)) * _per_example(radius, x)

    @override
    def size(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length


class L1(Ball):
    """Sum of |delta| <= eps."""

    density = 0.05  # share of pixels moved per step; one pixel a step would need thousands (Tramer and Boneh 2019)

    @override
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        # The nearest point is x + clip(soft(z - x, t), -x, 1 - x) for the smallest t >= 0 that fits (KKT conditions of
        # the intersection, Croce and Hein 2021). Its length falls with t, so bisection finds t.
        delta = z - x
        low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        high = delta.flatten(1).abs().amax(dim=1)
        for _ in range(40):
            middle = (low + high) / 2
            too_long = self.size(self._shrunk(delta, middle, x)) > self.eps
            low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
        inside = self.size(self._shrunk(delta, torch.zeros_like(high), x)) <= self.eps
        return x + self._shrunk(delta, torch.where(inside, 0, high), x)

    @staticmethod
    def _shrunk(delta: Tensor, threshold: Tensor, x: Tensor) -> Tensor:
        soft = delta.sign() * (delta.abs() - _per_example(threshold, x)).clamp_min(0)
        return torch.minimum(torch.maximum(soft, -x), 1 - x)

    @override
    def steepest(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        count = max(1, round(self.density * flat.shape[1]))
        largest = flat.abs().topk(count, dim=1).indices
        direction = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign() / count)
        return direction.view_as(gradient)

    @override
    def uniform(self, x: Tensor) -> Tensor:
        # d + 1 exponential draws over their sum are uniform on the simplex; signs spread it over the ball.
        flat = x.flatten(1)
        draws = torch.empty_like(flat).exponential_()
        rest = torch.empty(len(x), 1, dtype=x.dtype, device=x.device).exponential_()
        signs = torch.randint_like(flat, 2) * 2 - 1
        return (self.eps * signs * draws / (draws.sum(dim=1, keepdim=True) + rest)).view_as(x)

    @override
    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(dim=1)


_BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2, "l1": L1}


def ball(norm: Norm, eps: float) -> Ball:
    """Return the ball of this norm and radius; raise ``ValueError`` for an eps in 0..255 units."""
    check_eps(norm, eps)
    return _BALLS[norm](eps)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[N]`` so that it broadcasts over ``[N, ...]``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
