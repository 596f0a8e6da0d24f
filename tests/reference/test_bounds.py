"""The bounds agree with auto_LiRPA's (``bounds/README`` in the shared reference) on networks trained on MNIST.

Interval bounds, CROWN-IBP and CROWN at every radius, for all 16 images, in both precisions. Alpha-CROWN, which takes
seconds an image: the two small networks, two images, one radius each.
"""

import json
from collections import OrderedDict
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from overproof.bounds.crown import BoundOptions, bound, final, intermediate
from overproof.bounds.region import Bounds, Region
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.spec import logits, margins
from overproof.bounds.trace import trace
from overproof.models.classifier import Classifier
from overproof.signature import Signature

FOLDER = Path(__file__).parent / "bounds"
NAMES = ("cnn_pgd", "mlp_nat", "student_kd")
RADII = (0.01, 0.02, 0.05, 0.1)
METHODS = ("ibp", "crown_ibp", "crown")
SHAPE = (1, 28, 28)

every_network = pytest.mark.parametrize("name", NAMES)
every_radius = pytest.mark.parametrize("eps", RADII)
every_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@cache
def told(name):
    return load_file(FOLDER / "bounds" / f"{name}.safetensors")


@cache
def inputs():
    return load_file(FOLDER / "inputs.safetensors")


def network(name):
    layers, normalisation = OrderedDict(), {}
    for node in json.loads((FOLDER / "networks" / f"{name}.arch.json").read_text())["nodes"]:
        match node["op"]:
            case "normalize":
                normalisation = {"mean": node["mean"], "std": node["std"]}
            case "conv2d":
                sizes = (node[key] for key in ("in_channels", "out_channels", "kernel", "stride", "padding"))
                layers[node["id"]] = nn.Conv2d(*sizes)
            case "linear":
                layers[node["id"]] = nn.Linear(node["in_features"], node["out_features"])
            case "relu":
                layers[node["id"]] = nn.ReLU()
            case "flatten":
                layers[node["id"]] = nn.Flatten()
    backbone = nn.Sequential(layers)
    weights = load_file(FOLDER / "networks" / f"{name}.safetensors")
    backbone.load_state_dict({key: tensor for key, tensor in weights.items() if not key.startswith("norm_")})
    signature = Signature(channels=1, height=28, width=28, classes=10)
    return Classifier(backbone, signature, **normalisation).eval().requires_grad_(False)


@cache
def graph(name, dtype):
    return trace(network(name).to(dtype), SHAPE).graph()


def region(eps, dtype, count=16):
    return Region.around(inputs()["images"][:count].to(dtype), eps)


@cache
def found(name, eps, dtype):
    """Return our bounds of margins and logits, by method and quantity."""
    here, bounds = region(eps, dtype), {}
    for method in METHODS:
        means = BoundOptions(method=method)
        layers = intermediate(graph(name, dtype), here, means)
        for what, spec in (("margins", margins(inputs()["labels"], 10)), ("logits", logits(16, 10))):
            bounds[method, what] = final(graph(name, dtype), here, layers, spec, means)
    return bounds


def reference(name, eps, method, what, count=16):
    """Return the reference's bounds; of margins it has the lower ones only, and the upper are then infinite."""
    lower = told(name)[f"eps{eps}.{method}.{what}.lower"][:count]
    upper = told(name).get(f"eps{eps}.{method}.{what}.upper", torch.full_like(lower, torch.inf))
    return Bounds(lower, upper[:count])


def excess(ours, theirs):
    """Return by how much our bounds are looser, at most; negative where they are all tighter."""
    return max((theirs.lower - ours.lower).max().item(), (ours.upper - theirs.upper).max().item())


@every_network
@every_precision
def test_the_network_is_the_reference_s(name, dtype):
    x, y = inputs()["images"].to(dtype), inputs()["labels"]
    z = network(name).to(dtype)(x)
    slack = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(z.double(), told(name)["clean.logits"], rtol=0, atol=slack)
    folded = torch.einsum("nsk,nk->ns", margins(y, 10).double(), z.double())
    torch.testing.assert_close(folded, told(name)["clean.margins"], rtol=0, atol=slack)


@every_network
@every_radius
@every_precision
def test_interval_bounds_are_equal(name, eps, dtype):
    """To 1e-5 of the interval's width; the margins of the last layer are folded on both sides."""
    bounds = found(name, eps, dtype)
    width = 2 * bounds["ibp", "logits"].radius
    for what in ("logits", "margins"):
        theirs = reference(name, eps, "ibp", what)
        scale = width.mean().item()
        torch.testing.assert_close(bounds["ibp", what].lower.double(), theirs.lower, rtol=0, atol=1e-5 * scale)
        if what == "logits":
            torch.testing.assert_close(bounds["ibp", what].upper.double(), theirs.upper, rtol=0, atol=1e-5 * scale)
        if dtype == torch.float64:
            torch.testing.assert_close(bounds["ibp", what].lower, theirs.lower, rtol=0, atol=1e-9)


@every_network
@every_radius
@every_precision
@pytest.mark.parametrize("method", ["crown_ibp", "crown"])
def test_linear_bounds_are_never_looser(name, eps, dtype, method):
    bounds = found(name, eps, dtype)
    for what in ("logits", "margins"):
        ours, theirs = bounds[method, what], reference(name, eps, method, what)
        slack = 1e-4 * 2 * ours.radius.double()  # relative to each interval's width
        assert (ours.lower >= theirs.lower - slack).all()
        assert (ours.upper <= theirs.upper + slack).all()
        assert excess(ours, theirs) <= (1e-9 if dtype == torch.float64 else 1e-4)


@every_network
@every_radius
def test_crown_is_the_reference_s_to_the_last_digits(name, eps):
    """CROWN itself has one answer; only where an interval is the better does ours go beyond it."""
    for what in ("logits", "margins"):
        ours, theirs = found(name, eps, torch.float64)["crown", what], reference(name, eps, "crown", what)
        interval = reference(name, eps, "ibp", what)
        torch.testing.assert_close(ours.lower, torch.maximum(theirs.lower, interval.lower), rtol=0, atol=1e-9)


@every_network
@every_radius
@every_precision
@pytest.mark.parametrize("method", METHODS)
def test_no_bound_cuts_what_the_attack_reached(name, eps, dtype, method):
    slack = 1e-9 if dtype == torch.float64 else 1e-4
    bounds, attack = found(name, eps, dtype), told(name)
    assert (bounds[method, "logits"].lower <= attack[f"eps{eps}.attack.logits.min"] + slack).all()
    assert (bounds[method, "logits"].upper >= attack[f"eps{eps}.attack.logits.max"] - slack).all()
    assert (bounds[method, "margins"].lower <= attack[f"eps{eps}.attack.margins.min"] + slack).all()


@every_network
@every_precision
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_the_layers_before_the_activations(name, dtype, method):
    """By the reference, in float32, of the first two images at 0.05; neurons whose sign is decided are not refined."""
    made = graph(name, dtype)
    layers = intermediate(made, region(0.05, dtype, count=2), method)
    seen = 0
    for number, node in enumerate(made.nodes):
        lower = told(name).get(f"eps0.05.{method}.pre.{node.place}.lower")
        if lower is None:
            continue
        ours, upper = layers[number], told(name)[f"eps0.05.{method}.pre.{node.place}.upper"]
        open_ = (lower < 0) & (upper > 0)
        assert open_.any()
        seen += 1
        for mine, theirs in ((ours.lower, lower), (ours.upper, upper)):
            torch.testing.assert_close(mine.float()[open_], theirs[open_], rtol=1e-4, atol=1e-4)
        # What is decided there is decided here, and to the same side.
        assert (ours.lower[lower > 1e-4] >= 0).all()
        assert (ours.upper[upper < -1e-4] <= 0).all()
    assert seen == sum(key.startswith(f"eps0.05.{method}.pre.") for key in told(name)) / 2 > 1


@pytest.mark.parametrize(("name", "eps"), [("student_kd", 0.05), ("mlp_nat", 0.02)])
@every_precision
def test_alpha_is_within_two_percent_of_the_reference_and_not_looser_than_crown(name, eps, dtype):
    here, y = region(eps, dtype, count=2), inputs()["labels"][:2]
    attack = told(name)[f"eps{eps}.attack.margins.min"][:2]
    ours = bound(
        graph(name, dtype), here, margins(y, 10), BoundOptions(method="alpha", optimizer=AlphaOptimizer(steps=20))
    )
    crown = found(name, eps, dtype)["crown", "margins"].lower[:2]
    theirs = reference(name, eps, "alpha", "margins", count=2).lower
    logit = reference(name, eps, "alpha", "logits", count=2)
    width = (logit.upper - logit.lower).mean()
    slack = 1e-9 if dtype == torch.float64 else 1e-4
    assert (ours.lower >= theirs - 0.02 * width).all()
    assert (ours.lower >= crown - slack).all()
    assert (ours.lower > crown + 1e-3).any()
    assert (ours.lower <= attack + slack).all()
