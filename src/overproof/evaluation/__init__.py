"""Evaluation: suites of attacks and cascades of bounds, with one verdict per example."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.evaluation.attacked import judge
    from overproof.evaluation.autoattack import AutoAttack, AutoAttackResult
    from overproof.evaluation.certificates import Certificates
    from overproof.evaluation.certified import Plan
    from overproof.evaluation.evidence import Evidence, Spread
    from overproof.evaluation.proofs import CertifyResult, certify
    from overproof.evaluation.reliability import Reliability
    from overproof.evaluation.smoothing import Smoothing
    from overproof.evaluation.trial import Suite, Trial
    from overproof.evaluation.verdicts import Verdicts

_HOMES = {
    "AutoAttack": "overproof.evaluation.autoattack",
    "AutoAttackResult": "overproof.evaluation.autoattack",
    "Certificates": "overproof.evaluation.certificates",
    "CertifyResult": "overproof.evaluation.proofs",
    "Evidence": "overproof.evaluation.evidence",
    "Plan": "overproof.evaluation.certified",
    "Reliability": "overproof.evaluation.reliability",
    "Smoothing": "overproof.evaluation.smoothing",
    "Spread": "overproof.evaluation.evidence",
    "Suite": "overproof.evaluation.trial",
    "Trial": "overproof.evaluation.trial",
    "Verdicts": "overproof.evaluation.verdicts",
    "certify": "overproof.evaluation.proofs",
    "judge": "overproof.evaluation.attacked",
}

__all__ = [
    "AutoAttack",
    "AutoAttackResult",
    "Certificates",
    "CertifyResult",
    "Evidence",
    "Plan",
    "Reliability",
    "Smoothing",
    "Spread",
    "Suite",
    "Trial",
    "Verdicts",
    "certify",
    "judge",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
