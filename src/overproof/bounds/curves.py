"""Smooth functions with options, as operators one after another."""

from collections.abc import Sequence
from math import inf
from typing import Any

from torch import Tensor

from overproof.bounds import functions
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.operators import Operator, Scale
from overproof.bounds.smooth import Smooth

_POWERS = {
    2.0: functions.SQUARE,
    3.0: functions.CUBE,
    0.5: functions.SQRT,
    -0.5: functions.RSQRT,
    -1.0: functions.RECIPROCAL,
}


def make_smooth(name: str, like: Tensor, **given: Any) -> Sequence[Operator]:
    """Return a smooth function with torch's options; some are others of a scaled layer."""

    def scale(factor: float) -> Scale:
        return Scale(factor=like.new_full((), factor), shift=like.new_zeros(()))

    match name:
        case "gelu":
            return [Smooth(function=functions.GELU_TANH if given["approximate"] == "tanh" else functions.GELU)]
        case "softplus":
            beta = float(given["beta"])
            if beta <= 0:
                raise NoBoundsError(f"softplus with beta {beta:g}")
            inner = Smooth(function=functions.softplus(float(given["threshold"])))
            return [inner] if beta == 1 else [scale(beta), inner, scale(1 / beta)]
        case "logsigmoid":
            return [scale(-1.0), Smooth(function=functions.softplus()), scale(-1.0)]
        case "selu":
            return [Smooth(function=functions.elu(1.6732632423543772848)), scale(1.0507009873554804934)]
        case "elu":
            if not 0 <= given["alpha"] < inf:
                raise NoBoundsError(f"elu with alpha {given['alpha']:g}")
            return [Smooth(function=functions.elu(float(given["alpha"])))]
        case "celu":  # alpha (exp(x / alpha) - 1)
            alpha = float(given["alpha"])
            if alpha <= 0:
                raise NoBoundsError(f"celu with alpha {alpha:g}")
            return [scale(1 / alpha), Smooth(function=functions.elu(1.0)), scale(alpha)]
    exponent = given["exponent"]
    if not isinstance(exponent, int | float) or (exponent != 1 and exponent not in _POWERS):
        raise NoBoundsError(f"a power of {exponent if isinstance(exponent, int | float) else 'a tensor'}")
    return [] if exponent == 1 else [Smooth(function=_POWERS[float(exponent)])]
