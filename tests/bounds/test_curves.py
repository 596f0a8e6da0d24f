import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.curves import make_smooth
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.region import Bounds

X = torch.linspace(-6, 6, 201, dtype=torch.float64)[None]
CURVES = {
    "gelu": (("gelu", {"approximate": "none"}), F.gelu),
    "gelu tanh": (("gelu", {"approximate": "tanh"}), lambda x: F.gelu(x, approximate="tanh")),
    "softplus": (("softplus", {"beta": 1.0, "threshold": 20.0}), F.softplus),
    "softplus, beta": (("softplus", {"beta": 3, "threshold": 50.0}), lambda x: F.softplus(x, 3, 50.0)),
    "logsigmoid": (("logsigmoid", {}), F.logsigmoid),
    "elu": (("elu", {"alpha": 0.5}), lambda x: F.elu(x, 0.5)),
    "celu": (("celu", {"alpha": 0.5}), lambda x: F.celu(x, 0.5)),
    "selu": (("selu", {}), F.selu),
    "square": (("pow", {"exponent": 2}), lambda x: x**2),
    "cube": (("pow", {"exponent": 3}), lambda x: x**3),
    "the first power": (("pow", {"exponent": 1}), lambda x: x),
}


@pytest.mark.parametrize(("given", "function"), CURVES.values(), ids=CURVES)
def test_a_curve_is_torch_s(given, function):
    found = Bounds(X, X)
    for operator in make_smooth(given[0], X, **given[1]):
        found = operator.forward(found)
    torch.testing.assert_close(found.lower, function(X), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, function(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("softplus", {"beta": 0.0, "threshold": 20.0}),
        ("elu", {"alpha": -0.1}),
        ("celu", {"alpha": 0.0}),
        ("pow", {"exponent": 2.5}),
        ("pow", {"exponent": X}),
    ],
)
def test_a_curve_of_another_form_is_refused(name, given):
    with pytest.raises(NoBoundsError, match=name if name != "pow" else "power"):
        make_smooth(name, X, **given)
