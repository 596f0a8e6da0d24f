"""Bounds: what a network's logits can be for every image of a region, and what follows from it.

from overproof.bounds import certify, compute_bounds
lower, upper = compute_bounds(model, x, eps="1/255", method="crown")
result = certify(model, x, y, eps="1/255")
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.bounds.compute import compute_bounds
    from overproof.bounds.region import Bounds, Region
    from overproof.certification.on_tensors import CertifyResult, certify

_HOMES = {
    "Bounds": "overproof.bounds.region",
    "CertifyResult": "overproof.certification.on_tensors",
    "Region": "overproof.bounds.region",
    "certify": "overproof.certification.on_tensors",
    "compute_bounds": "overproof.bounds.compute",
}

__all__ = [
    "Bounds",
    "CertifyResult",
    "Region",
    "certify",
    "compute_bounds",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
