"""The smooth functions of one number that networks are made of, with what bounds need to know of their curves.

Inflection and turning points that have no closed form were computed with 60 digits and are rounded to float64. An
error of d in one of them changes a line by less than its cube, which is far below the rounding of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import exp, inf, log1p, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Piece:
    """An interval on which a function is convex, or on which it is concave, and its slope there (at its ends, too)."""

    low: float
    high: float
    slope: Map


@dataclass(frozen=True, kw_only=True)
class Function:
    """A continuous function, elementwise on any float tensor.

    Between two ``turns`` it is monotone. Outside the pieces of ``convex`` it is concave or piecewise concave with all
    its corners at ends of pieces, and the other way round. Where an interval meets ``undefined`` nothing is known.
    """

    name: str
    value: Map
    convex: tuple[Piece, ...]
    concave: tuple[Piece, ...]
    turns: tuple[float, ...] = ()
    undefined: tuple[float, float] | None = None
    short: tuple[float, float] = (inf, 0.0)
    """From where on, and by how much at most, the network's own function may lie below this one."""


def _everywhere(slope: Map) -> tuple[Piece, ...]:
    return (Piece(-inf, inf, slope),)


def _s_shaped(name: str, value: Map, slope: Map) -> Function:
    """Convex below zero, concave above."""
    return Function(name=name, value=value, convex=(Piece(-inf, 0.0, slope),), concave=(Piece(0.0, inf, slope),))


def _gate(name: str, value: Map, slope: Map, between: tuple[float, float], turn: float) -> Function:
    """From 0 down to the least value and up to x: convex between two inflections, concave outside."""
    low, high = between
    outside = (Piece(-inf, low, slope), Piece(high, inf, slope))
    return Function(name=name, value=value, convex=(Piece(low, high, slope),), concave=outside, turns=(turn,))


def _sigmoid_slope(x: Tensor) -> Tensor:
    return x.sigmoid() * (-x).sigmoid()


def _gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / sqrt(2)) + x * (-0.5 * x.square()).exp() / sqrt(2 * pi)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    inner = sqrt(2 / pi) * (x + 0.044715 * x.pow(3))
    share = (2 * inner).sigmoid()  # (1 + tanh) / 2
    return share + 2 * x * _sigmoid_slope(2 * inner) * sqrt(2 / pi) * (1 + 3 * 0.044715 * x.square())


def _mish_slope(x: Tensor) -> Tensor:
    whole = F.softplus(x, threshold=inf).tanh()
    return whole + x * x.sigmoid() * (1 - whole.square())


def _hardswish_slope(x: Tensor) -> Tensor:
    return (2 * x + 3) / 6


def _reciprocal_slope(x: Tensor) -> Tensor:
    return -x.reciprocal().square()


SIGMOID = _s_shaped("sigmoid", torch.sigmoid, _sigmoid_slope)
TANH = _s_shaped("tanh", torch.tanh, lambda x: 4 * _sigmoid_slope(2 * x))
ERF = _s_shaped("erf", torch.erf, lambda x: 2 / sqrt(pi) * (-x.square()).exp())
GELU = _gate("gelu", F.gelu, _gelu_slope, (-sqrt(2), sqrt(2)), -0.7517915246935644574579)
GELU_TANH = _gate(
    "gelu (tanh)",
    _gelu_tanh,
    _gelu_tanh_slope,
    (-1.418504008790828355548, 1.418504008790828355548),
    -0.752461422071016258488,
)
SILU = _gate(
    "silu",
    F.silu,
    lambda x: x.sigmoid() + x * _sigmoid_slope(x),
    (-2.399357280515467667833, 2.399357280515467667833),
    -1.278464542761073795109,
)
MISH = _gate("mish", F.mish, _mish_slope, (-2.256376396360793120006, 1.490571179485428459294), -1.192431214515495212138)
HARDSWISH = Function(
    name="hardswish",
    value=F.hardswish,
    convex=(Piece(-3.0, 3.0, _hardswish_slope),),
    concave=(Piece(-inf, -3.0, torch.zeros_like), Piece(3.0, inf, torch.ones_like)),
    turns=(-1.5,),
)
EXP = Function(name="exp", value=torch.exp, convex=_everywhere(torch.exp), concave=())
SQUARE = Function(name="square", value=torch.square, convex=_everywhere(lambda x: 2 * x), concave=(), turns=(0.0,))
CUBE = Function(
    name="cube",
    value=lambda x: x.pow(3),
    convex=(Piece(0.0, inf, lambda x: 3 * x.square()),),
    concave=(Piece(-inf, 0.0, lambda x: 3 * x.square()),),
)
ABS = Function(name="abs", value=torch.abs, convex=_everywhere(torch.sign), concave=(), turns=(0.0,))
RECIPROCAL = Function(
    name="reciprocal",
    value=torch.reciprocal,
    convex=(Piece(0.0, inf, _reciprocal_slope),),
    concave=(Piece(-inf, 0.0, _reciprocal_slope),),
    undefined=(0.0, 0.0),
)
RSQRT = Function(
    name="rsqrt",
    value=torch.rsqrt,
    convex=(Piece(0.0, inf, lambda x: -0.5 * x.rsqrt() / x),),
    concave=(),
    undefined=(-inf, 0.0),
)
SQRT = Function(
    name="sqrt",
    value=torch.sqrt,
    convex=(),
    concave=(Piece(0.0, inf, lambda x: 0.5 * x.rsqrt()),),
    undefined=(-inf, 0.0),
)
ROOT = Function(  # of what is nowhere below zero, though its bounds may be
    name="root",
    value=lambda x: x.clamp(min=0).sqrt(),
    convex=(Piece(-inf, 0.0, torch.zeros_like),),
    concave=(Piece(-inf, 0.0, torch.zeros_like), Piece(0.0, inf, lambda x: 0.5 * x.rsqrt())),
)
LOG = Function(
    name="log", value=torch.log, convex=(), concave=(Piece(0.0, inf, torch.reciprocal),), undefined=(-inf, 0.0)
)


@cache
def softplus(threshold: float = inf) -> Function:
    """Return log(1 + exp x), which torch replaces by x above the threshold."""
    return Function(
        name="softplus",
        value=lambda x: F.softplus(x, threshold=inf),
        convex=_everywhere(torch.sigmoid),
        concave=(),
        short=(threshold, log1p(exp(-threshold))),
    )


@cache
def elu(alpha: float) -> Function:
    """Return x above zero and alpha (exp x - 1) below, alpha >= 0."""
    below, above = Piece(-inf, 0.0, lambda x: alpha * x.exp()), Piece(0.0, inf, torch.ones_like)

    def slope(x: Tensor) -> Tensor:
        return torch.where(x > 0, 1.0, alpha * x.clamp(max=0).exp())

    return Function(
        name="elu",
        value=lambda x: F.elu(x, alpha),
        # The slope rises at zero up to alpha = 1, beyond it falls there.
        convex=_everywhere(slope) if alpha <= 1 else (below, above),
        concave=() if alpha <= 1 else (above,),
    )
