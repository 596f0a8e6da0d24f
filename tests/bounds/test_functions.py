"""What is said of each function's curve, against the curve itself in float64."""

from itertools import pairwise
from math import inf

import pytest
import torch

from overproof.bounds import functions
from overproof.bounds.functions import Function, elu, softplus

FUNCTIONS = (
    functions.SIGMOID,
    functions.TANH,
    functions.ERF,
    functions.GELU,
    functions.GELU_TANH,
    functions.SILU,
    functions.MISH,
    functions.HARDSWISH,
    functions.EXP,
    functions.SQUARE,
    functions.CUBE,
    functions.ABS,
    functions.RECIPROCAL,
    functions.RSQRT,
    functions.SQRT,
    functions.ROOT,
    functions.LOG,
    softplus(),
    elu(1.0),
    elu(0.4),
    elu(1.7),
)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
FINEST = 1e-9
"""A second difference of values near 1 over steps of 1/64, whose rounding is about 4 units of 2e-16."""


def grid(function: Function, low: float = -8.0, high: float = 8.0):
    """Return points a 64th apart, exactly, at which the function has a value."""
    if function.undefined is not None:
        low = max(low, function.undefined[1] + 1 / 64)
    return torch.arange(int(low * 64), int(high * 64) + 1, dtype=torch.float64) / 64


def test_every_function_is_here():
    named = {id(value) for value in vars(functions).values() if isinstance(value, Function)}
    assert named <= {id(function) for function in FUNCTIONS}


@every_function
def test_pieces_are_convex_and_concave(function):
    for pieces, sign in ((function.convex, 1), (function.concave, -1)):
        for piece in pieces:
            x = grid(function)
            x = x[(x >= piece.low) & (x <= piece.high)]
            if not len(x):  # the reciprocal below zero, which is the one above turned around
                continue
            f = sign * function.value(x)
            bend = f[2:] - 2 * f[1:-1] + f[:-2]
            assert (bend >= -FINEST * f.abs().amax().clamp(min=1)).all()


@every_function
def test_outside_the_convex_pieces_it_is_concave_between_their_ends_and_the_other_way_round(function):
    """A second difference of the other sign lies in, or at the end of, a piece of that kind."""
    x = grid(function)
    f = function.value(x)
    bend = f[2:] - 2 * f[1:-1] + f[:-2]
    for pieces, sign in ((function.convex, 1), (function.concave, -1)):
        bent = sign * bend > FINEST * f.abs().amax().clamp(min=1)
        inside = torch.zeros_like(bent)
        for piece in pieces:
            inside |= (x[2:] > piece.low) & (x[:-2] < piece.high)
        assert not (bent & ~inside).any()


@every_function
def test_slopes_are_the_derivative(function):
    for piece in (*function.convex, *function.concave):
        x = grid(function)
        x = x[(x > piece.low + 1e-3) & (x < piece.high - 1e-3) & (x != 0)].requires_grad_()
        (truth,) = torch.autograd.grad(function.value(x).sum(), x)
        torch.testing.assert_close(piece.slope(x.detach()), truth, rtol=1e-9, atol=1e-12)


@every_function
def test_it_is_monotone_between_turns(function):
    x = grid(function)
    ends = [-inf, *function.turns, inf]
    for low, high in pairwise(ends):
        f = function.value(x[(x >= low) & (x <= high)])
        step = f.diff() * (1 if f[-1] >= f[0] else -1)
        assert (step >= -1e-12 * f.abs().amax().clamp(min=1)).all()


@every_function
def test_a_turn_is_the_least_value_there(function):
    for turn in function.turns:
        near = turn + torch.linspace(-1e-3, 1e-3, 2001, dtype=torch.float64)
        least = function.value(torch.tensor(turn, dtype=torch.float64))
        assert (function.value(near) >= least - 1e-16).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.5])
def test_elu_is_torch_s(alpha):
    x = grid(elu(alpha))
    torch.testing.assert_close(elu(alpha).value(x), torch.nn.functional.elu(x, alpha))


def test_torch_s_softplus_is_short_of_the_function_by_no_more_than_is_said():
    function = softplus(3.0)
    x = grid(function)
    gap = function.value(x) - torch.nn.functional.softplus(x, threshold=3.0)
    start, short = function.short
    assert gap[x <= start].abs().max() <= 1e-15
    assert gap[x > start].min() > 0 and gap.max() <= short
