"""The commands as functions, which return values and print nothing: what tells of their progress, and their options.

``overproof.train``, ``overproof.evaluate`` and the others are names of ``overproof`` itself; here a command and its
module are called alike.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.commands.certify import CertificationEvent, iter_certify
    from overproof.commands.evaluate import EvaluationEvent, iter_evaluate
    from overproof.commands.instances import Ended, iter_decide
    from overproof.commands.options import (
        Certification,
        CertifyOptions,
        DecideOptions,
        Decision,
        EvaluateOptions,
        Evaluation,
        ExportOptions,
    )
    from overproof.commands.train import TrainingEvent, training

_HOMES = {
    "EvaluationEvent": "overproof.commands.evaluate",
    "Certification": "overproof.commands.options",
    "CertifyOptions": "overproof.commands.options",
    "CertificationEvent": "overproof.commands.certify",
    "DecideOptions": "overproof.commands.options",
    "Decision": "overproof.commands.options",
    "Ended": "overproof.commands.instances",
    "EvaluateOptions": "overproof.commands.options",
    "Evaluation": "overproof.commands.options",
    "ExportOptions": "overproof.commands.options",
    "TrainingEvent": "overproof.commands.train",
    "iter_certify": "overproof.commands.certify",
    "iter_decide": "overproof.commands.instances",
    "iter_evaluate": "overproof.commands.evaluate",
    "training": "overproof.commands.train",
}

__all__ = [
    "Certification",
    "CertificationEvent",
    "CertifyOptions",
    "DecideOptions",
    "Decision",
    "Ended",
    "EvaluateOptions",
    "Evaluation",
    "EvaluationEvent",
    "ExportOptions",
    "TrainingEvent",
    "iter_certify",
    "iter_decide",
    "iter_evaluate",
    "training",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
