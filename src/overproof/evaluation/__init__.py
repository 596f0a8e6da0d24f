"""Evaluation: suites of attacks, with one verdict per example."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.evaluation.attacked import judge
    from overproof.evaluation.autoattack import AutoAttack, AutoAttackResult
    from overproof.evaluation.results import Verdicts
    from overproof.statistics import Proportion, Spread

_HOMES = {
    "AutoAttack": "overproof.evaluation.autoattack",
    "AutoAttackResult": "overproof.evaluation.autoattack",
    "Proportion": "overproof.statistics",
    "Spread": "overproof.statistics",
    "Verdicts": "overproof.evaluation.results",
    "judge": "overproof.evaluation.attacked",
}

__all__ = [
    "AutoAttack",
    "AutoAttackResult",
    "Proportion",
    "Spread",
    "Verdicts",
    "judge",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
