"""What a run holds for a reader: the contents of its files, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overproof.report.pictures import Pictures
from overproof.statistics import Proportion
from overproof.wording import one_line

Plain = Mapping[str, Any]
_LONGEST = 300  # characters of a name in a table


@dataclass(frozen=True, kw_only=True)
class Other:
    """A result that is kept beside the one shown: ``what`` it is, what was asked and what came of it, in words."""

    folder: str
    what: str
    asked: str
    result: str

    @classmethod
    def of(cls, folder: str, result: Plain, what: str) -> "Other":
        """Return a result by the content of its main file; raises what a file of another shape makes it raise."""
        data, threat = result["data"], result["threat"]
        how = result["suite"]["name"] if what == "evaluation" else result.get("bound", result["kind"])
        asked = f"{how}, {threat['norm']} eps {threat['eps']}, {data['examples']} of {data['of']} images"
        asked += f" of {data['name']}, seed {result['seed']}"
        shares = [("clean", result["clean"]), ("worst case", result["worst"])] if what == "evaluation" else []
        shares = shares or [("certified", result["verified"])]
        said = ", ".join(f"{name} {_share(one)}" for name, one in shares)
        return cls(folder=one_line(folder, _LONGEST), what=what, asked=one_line(asked, _LONGEST), result=said)

    def __str__(self) -> str:
        return f"{self.what} by {self.asked}: {self.result} ({self.folder})"


def _share(proportion: Plain) -> str:
    return str(Proportion(claim=proportion["claim"], passed=proportion["passed"], of=proportion["of"])) + " %"


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """One run: ``evaluation`` is the content of ``evaluation.json``, the rest is there where the run holds it.

    ``certificate`` is that of ``certificate.json``, ``metrics`` and ``examples`` the records of ``metrics.jsonl`` and
    ``examples.jsonl``, ``recipe`` the whole tree as plain values, ``classes`` their names, ``multiply_adds`` those of
    one forward pass, ``lengths`` the epochs it was to have before each extension. ``notes`` say what was found but left
    out, and why; ``others`` are kept beside the results shown.
    """

    evaluation: Plain
    folder: str = ""
    certificate: Plain | None = None
    metrics: Sequence[Plain] = ()
    examples: Sequence[Plain] = ()
    recipe: Plain | None = None
    classes: tuple[str, ...] = ()
    multiply_adds: int | None = None
    lengths: tuple[int, ...] = ()
    pictures: Pictures | None = None
    notes: tuple[str, ...] = ()
    others: tuple[Other, ...] = ()

    @property
    def name(self) -> str:
        """What the run is called in its recipe."""
        return one_line(str(self.evaluation["run"]), _LONGEST)

    @property
    def method(self) -> str:
        """The kind of its method."""
        return one_line(str(self.evaluation["method"]), _LONGEST)
