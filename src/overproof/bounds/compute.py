"""Bounds of a network's logits around images, in one call."""

from contextlib import nullcontext
from math import inf, prod
from typing import Literal

import torch
from torch import Tensor, nn

from overproof.attacks.labelled import check_images
from overproof.attacks.radius import AnyNorm, Radius, check_eps, read_norm
from overproof.bounds.crown import Method, bound
from overproof.bounds.graph import Graph
from overproof.bounds.region import Bounds, Region
from overproof.bounds.spec import logits
from overproof.bounds.trace import trace
from overproof.errors import InputError, nearest
from overproof.models.mode import in_mode

BoundMethod = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
_METHODS: dict[str, Method] = {"ibp": "ibp", "crown-ibp": "crown_ibp", "crown": "crown", "alpha-crown": "alpha"}
_ROWS = 200_000  # linear functions that are made of one layer at once


def compute_bounds(
    model: nn.Module, x: Tensor, *, eps: str | float, norm: AnyNorm = "linf", method: BoundMethod = "crown"
) -> Bounds:
    """Return ``(lower, upper)``, each ``[N, K]``: what every logit is between, within ``eps`` of each image.

    ``x`` are pixels ``[N, C, H, W]`` in [0, 1], on the model's device; the region is the ball of the norm (``linf`` or
    ``l2``) within [0, 1]. Methods, looser and faster ones first: ``ibp`` (Gowal et al. 2018), ``crown-ibp`` (Zhang et
    al. 2020), ``crown`` (Zhang et al. 2018), ``alpha-crown`` (Xu et al. 2021). The model is bounded as it is in eval
    mode, and its modes are given back. With ``ibp`` and ``crown-ibp`` gradients flow to the weights, as through the
    model itself. The bounds are computed in the precision of the weights and are exact but for its rounding; infinite
    where nothing is known, as of a quotient by what may be 0.

    Raises ``InputError`` in one sentence, for a layer without bounds with its name.
    """
    radius, chosen = Radius(eps), _method(method)
    which = read_norm(norm)
    check_eps(which, radius)
    if which == "l1":
        raise InputError("bounds are for linf and l2, not for l1")
    check_images(x, least_dimensions=2)
    if not isinstance(model, nn.Module):
        raise InputError(f"bounds need an nn.Module whose layers can be read, got an object of {type(model).__name__}")
    with torch.inference_mode(False), in_mode(model, training=False):
        graph = _graph(model, x)
        if not len(x):
            return Bounds(*(x.new_zeros(0, graph.classes) for _ in range(2)))
        parts = []
        for part in torch.split(x.detach().clone().clamp(0, 1), _examples(graph)):
            region = Region.around(part, float(radius), which)
            spec = logits(len(part), graph.classes).to(part.device)
            with nullcontext() if chosen in ("ibp", "crown_ibp") else torch.no_grad():
                parts.append(bound(graph, region, spec, chosen))
    lower, upper = (torch.cat(sides) for sides in zip(*parts, strict=True))
    # Where an operator has no bounds (a quotient by what may be 0), infinities that cancel leave no number.
    return Bounds(lower.masked_fill(lower.isnan(), -inf), upper.masked_fill(upper.isnan(), inf))


def _graph(model: nn.Module, x: Tensor) -> Graph:
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    for weight in weights[:1]:
        if weight.device != x.device:
            raise InputError(f"the model is on {weight.device} and the images on {x.device}; move one of them")
        if weight.dtype != x.dtype:
            raise InputError(f"the model's weights are {weight.dtype} and the images {x.dtype}; convert one of them")
        if weight.dtype not in (torch.float32, torch.float64):
            raise InputError(f"bounds in {weight.dtype} would be mostly rounding; use model.float() and x.float()")
    return trace(model, tuple(x.shape[1:])).graph()


def _method(word: str) -> Method:
    method = str(word).replace("_", "-").lower()
    if method not in _METHODS:
        raise InputError(f"there is no method {word!r} of bounds{nearest(method, _METHODS)}")
    return _METHODS[method]


def _examples(graph: Graph) -> int:
    return max(1, _ROWS // (2 * max(prod(node.shape) for node in graph.nodes)))
