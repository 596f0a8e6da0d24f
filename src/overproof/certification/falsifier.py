"""Looking for a counter-example of a query: by gradients of a network, or by its answers alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.box import Ask, search_box
from overproof.attacks.pgd import PGD
from overproof.bounds.region import Bounds, outward
from overproof.certification.query import Answer, Case
from overproof.data.draws import seed_at

_TOGETHER = 50  # points that are optimised together
_START = PGD(eps=0.5, steps=10, step=0.5)  # in the unit cube, along a random direction of the outputs
_ASCENTS = (
    PGD(eps=1, steps=20, step=0.2, start="none", momentum=0.75, best=True),
    PGD(eps=1, steps=30, step=0.03, start="none", momentum=0.75, best=True),
)
_ROUND = 2  # restarts of every case between two looks at the clock


def falsify(
    ask: Ask,
    cases: Sequence[Case],
    *,
    seconds: float,
    confirm: Callable[[int, Tensor], bool],
    seed: int = 0,
) -> Answer:
    """Return ``sat`` with a confirmed counter-example of some case, or ``unknown`` when the time is over.

    ``ask`` maps float32 ``[N, *shape]`` to outputs ``[N, K]``; where it is an ``nn.Module`` its gradients are followed.
    ``confirm`` is that of ``verify``.
    """
    until = monotonic() + seconds
    if isinstance(ask, nn.Module):
        search = Falsifier(ask, cases, confirm, torch.Generator().manual_seed(seed))
        while monotonic() < until:
            if (answer := search.find_counterexample(range(len(cases)), _ROUND, until=until)) is not None:
                return answer
        return Answer("unknown")
    turn = 0
    while monotonic() < until:
        number, case = turn % len(cases), cases[turn % len(cases)]
        draws = torch.Generator().manual_seed(seed_at(seed, "query", number, turn // len(cases)))
        box, rows = (case.lower.float(), case.upper.float()), (case.weight.float(), case.bias.float())
        points, score = search_box(ask, *box, *rows, draws)
        for point in points[score >= 0]:
            if confirm(number, point):
                return Answer("sat", witness=point, case=number)
        turn += 1
    return Answer("unknown")


@dataclass(frozen=True, eq=False)
class Falsifier:
    """Looks for counter-examples by gradients, over a unit cube that stands for the box.

    Each search starts where a random direction of the outputs is greatest, so that searches end in different places
    (output diversified initialisation, Tashiro et al. 2020).
    """

    network: nn.Module
    cases: Sequence[Case]
    confirm: Callable[[int, Tensor], bool]
    draws: torch.Generator

    def find_counterexample(self, open_: Sequence[int], restarts: int, *, until: float = inf) -> Answer | None:
        """Return a confirmed counter-example of one of these cases, or None."""
        left = list(open_) * restarts
        at_once = max(1, _TOGETHER // max(1, len(open_))) * len(open_)
        while left and monotonic() < until:
            numbers, left = left[:at_once], left[at_once:]
            for number, x in zip(numbers, self._ends(numbers), strict=True):
                if self._score(number, x) >= 0 and self.confirm(number, x):
                    return Answer("sat", x, number)
        return None

    def _ends(self, numbers: Sequence[int]) -> Tensor:
        """Return where a search for each of these cases ends, float32 ``[n, *shape]``."""
        cases = [self.cases[number] for number in numbers]
        box = Bounds(*(torch.stack([getattr(case, side) for case in cases]) for side in ("lower", "upper")))
        model = _OverBox(self.network, box)
        outputs = cases[0].weight.shape[1]
        wanted = 2 * torch.rand(len(cases), outputs, dtype=torch.float64, generator=self.draws) - 1

        def apart(unit: Tensor) -> Tensor:
            along: Tensor = (model(unit).double() * wanted).sum(dim=1)
            return along.to(unit)

        def objective(unit: Tensor) -> Tensor:
            return torch.stack([case.score(each) for case, each in zip(cases, model(unit), strict=True)]).to(unit)

        unit = torch.full((len(cases), *cases[0].lower.shape), 0.5)
        with torch.random.fork_rng([]), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.draws)))
            unit = _START(model, unit, apart)
            for ascent in _ASCENTS:
                unit = ascent(model, unit, objective)
            points: Tensor = model.inputs(unit).float()
            return points

    def _score(self, number: int, x: Tensor) -> float:
        with torch.no_grad():
            return float(self.cases[number].score(self.network(x[None])[0]))


class _OverBox(nn.Module):
    """A network over the unit cube, of whose points each stands for one of the box."""

    def __init__(self, network: nn.Module, box: Bounds) -> None:
        super().__init__()
        self.network, self.box = network, box
        # The last float32 numbers within the box; where there is none, the nearest.
        low, high = outward(box.lower, torch.empty(0), down=False), outward(box.upper, torch.empty(0), down=True)
        self.within = Bounds(torch.minimum(low, box.upper.float()), torch.maximum(high, box.lower.float()))

    def inputs(self, unit: Tensor) -> Tensor:
        """Return the inputs that points of the unit cube stand for."""
        x = (self.box.lower + unit.double() * (self.box.upper - self.box.lower)).float()
        return torch.minimum(torch.maximum(x, self.within.lower), self.within.upper)

    @override
    def forward(self, unit: Tensor) -> Tensor:
        outputs: Tensor = self.network(self.inputs(unit))
        return outputs
