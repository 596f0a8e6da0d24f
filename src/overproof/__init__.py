"""Distil small robust image classifiers, attack them, prove what can be proved, and ship them.

The verbs of the command line are functions here: ``train``, ``evaluate``, ``certify``, ``compare``, ``export``,
``quickstart``, ``clean``, ``import_teacher``, ``check_teacher``; ``decide`` is the verifier of ``certify --query``;
``load`` returns the network of a run or of the Hub.
Names are imported when they are first used, so that ``import overproof`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.errors import InputError
    from overproof.recipe import Recipe, read
    from overproof.run import Run, load
    from overproof.verbs.certify import certify
    from overproof.verbs.check_teacher import check_teacher
    from overproof.verbs.clean import clean
    from overproof.verbs.compare import compare
    from overproof.verbs.decide import decide
    from overproof.verbs.evaluate import evaluate
    from overproof.verbs.export import export
    from overproof.verbs.import_teacher import import_teacher
    from overproof.verbs.quickstart import quickstart
    from overproof.verbs.train import train

__version__ = "0.10.0"

_HOMES = {
    "InputError": "overproof.errors",
    "Recipe": "overproof.recipe",
    "Run": "overproof.run",
    "certify": "overproof.verbs.certify",
    "check_teacher": "overproof.verbs.check_teacher",
    "clean": "overproof.verbs.clean",
    "compare": "overproof.verbs.compare",
    "decide": "overproof.verbs.decide",
    "evaluate": "overproof.verbs.evaluate",
    "export": "overproof.verbs.export",
    "import_teacher": "overproof.verbs.import_teacher",
    "load": "overproof.run",
    "quickstart": "overproof.verbs.quickstart",
    "read": "overproof.recipe",
    "train": "overproof.verbs.train",
}

__all__ = [
    "InputError",
    "Recipe",
    "Run",
    "certify",
    "check_teacher",
    "clean",
    "compare",
    "decide",
    "evaluate",
    "export",
    "import_teacher",
    "load",
    "quickstart",
    "read",
    "train",
]


if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
