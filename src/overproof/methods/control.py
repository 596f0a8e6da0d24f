"""Controllers of several terms or teachers: pure functions from measurements to the next weights or temperatures."""

import torch
from torch import Tensor


def balance(losses: Tensor, initial: Tensor, weights: Tensor, rate: float | Tensor, power: float) -> Tensor:
    """Return the next weights of n terms, ``[n]``: a step of ``rate`` towards each term's share (MTARD, NLB).

    ``share_i = (L_i / L_i(0))^power / sum_j (L_j / L_j(0))^power``: a loss that has shrunk less, relative to its start,
    gets more weight. Weights stay at least 0 (which matters for rates above 1 only) and sum to 1, also where a loss is
    or began at 0.
    """
    least = torch.finfo(losses.dtype).tiny
    relative = (losses / initial.clamp_min(least)) ** power
    share = (relative + least) / (relative + least).sum()
    stepped = (weights + rate * (share - weights)).clamp_min(0)
    return stepped / stepped.sum()


def temper(
    entropies: Tensor, temperatures: Tensor, rate: float | Tensor, low: float = 1.0, high: float = 10.0
) -> Tensor:
    """Return the next temperatures of n teachers, ``[n]`` in [low, high]: one step of ``rate`` (B-MTARD, EBB).

    A teacher whose mean entropy is above the mean of all is sharpened, one below is softened, equal ones stay; for two
    teachers that is the sign of the difference, as in the paper.
    """
    # n times the distance from the mean as a sum of differences, so that equal entropies give exactly 0.
    above = (entropies[:, None] - entropies).sum(dim=1)
    return (temperatures - rate * torch.sign(above)).clamp(low, high)


def check_drops(drops: tuple[float, ...]) -> None:
    """Raise ``ValueError`` for a drop that is no share of the run, such as an epoch."""
    for drop in drops:
        if not 0 < drop <= 1:
            raise ValueError(f"rate_drops are shares of the run, in (0, 1], got {drop:g}; write 215/300 as 0.717")


def decayed(rate: float, progress: float, drops: tuple[float, ...], gamma: float = 0.1) -> float:
    """Return a rate times ``gamma`` for every share of the run in ``drops`` that has been reached."""
    return rate * gamma ** sum(progress >= drop for drop in drops)
