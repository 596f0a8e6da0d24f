"""Training: the loop, optimisers and schedules, weight averages, checkpoints, many processes."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.training.averaging import EMA, SWA
    from overproof.training.cost import Passes
    from overproof.training.loop import Loop, NotFiniteError, Progress
    from overproof.training.optimisation import SGD, AdamW, Constant, Cosine, Multistep, OneCycle, Training, Triangular
    from overproof.training.performance import Performance

_HOMES = {
    "AdamW": "overproof.training.optimisation",
    "Constant": "overproof.training.optimisation",
    "Cosine": "overproof.training.optimisation",
    "EMA": "overproof.training.averaging",
    "Loop": "overproof.training.loop",
    "Multistep": "overproof.training.optimisation",
    "NotFiniteError": "overproof.training.loop",
    "Passes": "overproof.training.cost",
    "Performance": "overproof.training.performance",
    "Progress": "overproof.training.loop",
    "SGD": "overproof.training.optimisation",
    "SWA": "overproof.training.averaging",
    "Training": "overproof.training.optimisation",
    "OneCycle": "overproof.training.optimisation",
    "Triangular": "overproof.training.optimisation",
}

__all__ = [
    "EMA",
    "SGD",
    "SWA",
    "AdamW",
    "Constant",
    "Cosine",
    "Loop",
    "Multistep",
    "NotFiniteError",
    "OneCycle",
    "Passes",
    "Performance",
    "Progress",
    "Training",
    "Triangular",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
