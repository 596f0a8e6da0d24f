"""One thing that was looked at: what a check says, and how bad that is."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["fine", "suspect", "fail"]
"""How bad the finding of a check is."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at: how bad it is, the ``finding`` in one sentence, and the figures it rests on."""

    name: str
    level: Level
    finding: str
    figures: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values; a figure that is not finite is None."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {"name": self.name, "level": self.level, "finding": self.finding, "figures": figures}
