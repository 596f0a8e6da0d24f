"""What a run holds for a reader: the contents of its files, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overproof.report.pictures import Pictures
from overproof.wording import one_line

Plain = Mapping[str, Any]
_LONGEST = 300  # characters of a name in a table


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """One run: ``evaluation`` is the content of ``evaluation.json``, the rest is there where the run holds it.

    ``certificate`` is that of ``certificate.json``, ``metrics`` and ``examples`` the records of ``metrics.jsonl`` and
    ``examples.jsonl``, ``recipe`` the whole tree as plain values, ``classes`` their names, ``multiply_adds`` those of
    one forward pass. ``notes`` say what was found but left out, and why.
    """

    evaluation: Plain
    folder: str = ""
    certificate: Plain | None = None
    metrics: Sequence[Plain] = ()
    examples: Sequence[Plain] = ()
    recipe: Plain | None = None
    classes: tuple[str, ...] = ()
    multiply_adds: int | None = None
    pictures: Pictures | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the run is called in its recipe."""
        return one_line(str(self.evaluation["run"]), _LONGEST)

    @property
    def method(self) -> str:
        """The kind of its method."""
        return one_line(str(self.evaluation["method"]), _LONGEST)
