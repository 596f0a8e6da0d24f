"""The commands as functions, which return values and print nothing: what tells of their progress, and their options.

``overproof.train``, ``overproof.evaluate`` and the others are names of ``overproof`` itself; here a command and its
module are called alike.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.verbs.certify import Certifying, certifying
    from overproof.verbs.evaluate import Attacking, evaluating
    from overproof.verbs.instances import Ended, deciding
    from overproof.verbs.loaded import Known, LoadedModel, Origin, Preprocessing
    from overproof.verbs.options import (
        Certification,
        CertifyOptions,
        DecideOptions,
        Decision,
        EvaluateOptions,
        Evaluation,
        ExportOptions,
    )
    from overproof.verbs.train import News, training

_HOMES = {
    "Attacking": "overproof.verbs.evaluate",
    "Certification": "overproof.verbs.options",
    "CertifyOptions": "overproof.verbs.options",
    "Certifying": "overproof.verbs.certify",
    "DecideOptions": "overproof.verbs.options",
    "Decision": "overproof.verbs.options",
    "Ended": "overproof.verbs.instances",
    "EvaluateOptions": "overproof.verbs.options",
    "Evaluation": "overproof.verbs.options",
    "ExportOptions": "overproof.verbs.options",
    "Known": "overproof.verbs.loaded",
    "LoadedModel": "overproof.verbs.loaded",
    "News": "overproof.verbs.train",
    "Origin": "overproof.verbs.loaded",
    "Preprocessing": "overproof.verbs.loaded",
    "certifying": "overproof.verbs.certify",
    "deciding": "overproof.verbs.instances",
    "evaluating": "overproof.verbs.evaluate",
    "training": "overproof.verbs.train",
}

__all__ = [
    "Attacking",
    "Certification",
    "CertifyOptions",
    "Certifying",
    "DecideOptions",
    "Decision",
    "Ended",
    "EvaluateOptions",
    "Evaluation",
    "ExportOptions",
    "Known",
    "LoadedModel",
    "News",
    "Origin",
    "Preprocessing",
    "certifying",
    "deciding",
    "evaluating",
    "training",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
