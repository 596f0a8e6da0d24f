"""Alpha- and beta-CROWN: optimising what the relaxations leave free, for every row its own (Xu 2021, Wang 2021)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor
from typing_extensions import override

from overproof.bounds.activations import Activation, ReLU
from overproof.bounds.graph import Relaxation
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds


@dataclass(frozen=True, kw_only=True)
class GivenSlopes(Relaxation):
    """Lower slopes of a choice that is given: 1 where a ReLU's ``steep`` (bool ``[N, *shape]``), its least elsewhere.

    ReLUs that are not named choose for themselves; nothing of what is met is kept.
    """

    steep: Mapping[int, Tensor]

    @override
    def slope(self, number: int, activation: Activation, rows: LinearBounds, before: Bounds) -> Tensor | None:
        """Return the lower slopes for these rows over an activation's output, None where it chooses for itself."""
        if not isinstance(activation, ReLU) or number not in self.steep:
            return None
        return rows.values(self.steep[number].to(before.lower))


@dataclass(frozen=True, kw_only=True)
class AlphaOptimizer:
    """Adam on slopes in [0, 1] and betas >= 0, started from CROWN's: ``steps`` of ``rate``, each ``decay`` smaller.

    ``seconds`` ends the steps on one chunk of rows early. Any choice gives a valid bound, so wherever it ends the best
    of each row counts.
    """

    steps: int = 20
    rate: float = 0.25
    decay: float = 0.98
    seconds: float | None = None

    def best(self, least: Callable[[Relaxation], Tensor], free: Relaxation, *, complete: bool = False) -> Tensor:
        """Return the best of the lower bounds ``[M]`` that ``least`` gives; ``free`` ends as the last choice made.

        It starts at what ``free`` holds; ``least`` fills what it lacks at first, unless it is ``complete``.
        """
        best = None if complete else least(free).detach()
        adam = {(kind, number): _Adam.at(choice) for kind, number, choice in _choices(free)}
        started, passed, longest = time.monotonic(), 0.0, 0.0
        for step in range(1, self.steps + 1 if adam else 1):
            before, passed = passed, time.monotonic() - started
            longest = max(longest, passed - before)
            # A step that would end too late is not begun.
            if self.seconds is not None and passed + longest > self.seconds:
                break
            with torch.enable_grad():
                tracked = replace(
                    free,
                    slopes={k: v.detach().requires_grad_() for k, v in free.slopes.items()},
                    betas={k: v.detach().requires_grad_() for k, v in free.betas.items()},
                )
                bound = least(tracked)
                wanted = [choice for *_, choice in _choices(tracked)]
                gradients = torch.autograd.grad(bound.sum(), wanted, allow_unused=True)
            best = bound.detach() if best is None else torch.maximum(best, bound.detach())
            size = self.rate * self.decay ** (step - 1)
            for (kind, number, choice), gradient in zip(_choices(free), gradients, strict=True):
                if gradient is not None:
                    moved = choice + size * adam[kind, number].direction(gradient, step)
                    getattr(free, kind)[number] = moved.clamp_(0, 1 if kind == "slopes" else inf)
        last = least(free).detach()
        return last if best is None else torch.maximum(best, last)


def _choices(free: Relaxation) -> list[tuple[str, int, Tensor]]:
    return [(kind, number, choice) for kind in ("slopes", "betas") for number, choice in getattr(free, kind).items()]


@dataclass(frozen=True)
class _Adam:
    """The running moments of one choice's gradient (Kingma and Ba 2015)."""

    first: Tensor
    second: Tensor

    @classmethod
    def at(cls, choice: Tensor) -> "_Adam":
        return cls(torch.zeros_like(choice), torch.zeros_like(choice))

    def direction(self, gradient: Tensor, step: int) -> Tensor:
        mean = self.first.lerp_(gradient, 0.1) / (1 - 0.9**step)
        square = self.second.lerp_(gradient.square(), 0.001) / (1 - 0.999**step)
        return mean / (square.sqrt() + 1e-8)
