"""Distil small robust image classifiers, attack them, prove what can be proved, and ship them.

The commands are functions here: ``train``, ``evaluate``, ``certify``, ``compare``, ``export``,
``quickstart``, ``clean``, ``import_teacher``, ``check_teacher``; ``decide`` is the verifier of ``certify --query``;
``load`` returns the network of a run or of the Hub.
Names are imported when they are first used, so that ``import overproof`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily
from overproof.version import __version__ as __version__

if TYPE_CHECKING:
    from overproof.commands.certify import certify
    from overproof.commands.check_teacher import check_teacher
    from overproof.commands.clean import clean
    from overproof.commands.compare import compare
    from overproof.commands.decide import decide
    from overproof.commands.evaluate import evaluate
    from overproof.commands.export import export
    from overproof.commands.import_teacher import import_teacher
    from overproof.commands.quickstart import quickstart
    from overproof.commands.train import train
    from overproof.errors import InputError
    from overproof.recipe import Recipe, read
    from overproof.runs.folder import Run, load

_HOMES = {
    "InputError": "overproof.errors",
    "Recipe": "overproof.recipe",
    "Run": "overproof.runs.folder",
    "certify": "overproof.commands.certify",
    "check_teacher": "overproof.commands.check_teacher",
    "clean": "overproof.commands.clean",
    "compare": "overproof.commands.compare",
    "decide": "overproof.commands.decide",
    "evaluate": "overproof.commands.evaluate",
    "export": "overproof.commands.export",
    "import_teacher": "overproof.commands.import_teacher",
    "load": "overproof.runs.folder",
    "quickstart": "overproof.commands.quickstart",
    "read": "overproof.recipe",
    "train": "overproof.commands.train",
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
