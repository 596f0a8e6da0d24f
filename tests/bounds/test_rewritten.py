"""Functions that are several simpler ones: those compute the same."""

import pytest
import torch

from overproof.bounds.rewritten import rewrite

from .networks import normal

X, Y, Z = normal(4, 4, seed=1), normal(4, 4, seed=2), normal(4, 4, seed=3)
CALLS = (
    (torch.addcmul, (X, Y, Z), {}),
    (torch.addcmul, (X, Y, Z), {"value": -0.3}),
    (torch.addmm, (X, Y, Z), {}),
    (torch.addmm, (X, Y, Z), {"beta": 0.5, "alpha": 2.0}),
    (torch.baddbmm, (X[None], Y[None], Z[None]), {"alpha": -1.0}),
    (torch.lerp, (X, Y, 0.3), {}),
    (torch.lerp, (X, Y), {"weight": Z}),
    (torch.maximum, (X, Y), {}),
    (torch.minimum, (X, Y), {}),
)


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_it_is_the_same_function(function, args, kwargs):
    for kind, target in (("call_function", function), ("call_method", function.__name__)):
        simple = rewrite(kind, target, args, kwargs)
        torch.testing.assert_close(simple(), function(*args, **kwargs))


@pytest.mark.parametrize(
    ("kind", "target", "kwargs"),
    [("call_function", torch.add, {}), ("get_attr", "lerp", {}), ("call_function", torch.addcmul, {"out": X})],
)
def test_other_steps_stay(kind, target, kwargs):
    assert rewrite(kind, target, (X, Y, Z), kwargs) is None
