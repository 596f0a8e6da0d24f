"""Certification: cascades of bounds, joint proofs about two networks, smoothing, and queries of verifiers."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.certification.cascade import Plan
    from overproof.certification.on_tensors import CertifyResult, certify
    from overproof.certification.results import Certificates
    from overproof.certification.smoothing import Smoothing

_HOMES = {
    "Certificates": "overproof.certification.results",
    "CertifyResult": "overproof.certification.on_tensors",
    "Plan": "overproof.certification.cascade",
    "Smoothing": "overproof.certification.smoothing",
    "certify": "overproof.certification.on_tensors",
}

__all__ = [
    "Certificates",
    "CertifyResult",
    "Plan",
    "Smoothing",
    "certify",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
