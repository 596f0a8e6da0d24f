"""Looking for a counter-example of a query where nothing can be proved: the network has no bounds, or no gradients."""

from collections.abc import Callable, Sequence
from time import monotonic

import torch
from torch import Tensor

from overproof.attacks.box import Ask, search_box
from overproof.data.draws import seed_at
from overproof.evaluation.verifier import Answer, Case


def falsify(
    ask: Ask,
    cases: Sequence[Case],
    *,
    seconds: float,
    confirm: Callable[[int, Tensor], bool],
    seed: int = 0,
    gradients: bool = True,
) -> Answer:
    """Return ``sat`` with a confirmed counter-example of some case, or ``unknown`` when the time is over.

    ``ask`` maps float32 ``[N, *shape]`` to outputs ``[N, K]``; ``confirm`` is that of ``verify``. The cases take turns.
    """
    started, turn = monotonic(), 0
    while monotonic() - started < seconds:
        number, case = turn % len(cases), cases[turn % len(cases)]
        draws = torch.Generator().manual_seed(seed_at(seed, "query", number, turn // len(cases)))
        box, rows = (case.lower.float(), case.upper.float()), (case.weight.float(), case.bias.float())
        points, score = search_box(ask, *box, *rows, draws, gradients=gradients)
        for point in points[score >= 0]:
            if confirm(number, point):
                return Answer("sat", witness=point, case=number)
        turn += 1
    return Answer("unknown")
