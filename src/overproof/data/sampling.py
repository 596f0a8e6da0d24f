"""Which images an epoch shows where classes are unequal: rare ones more often, common ones less."""

import torch
from torch import Tensor


def quotas(counts: Tensor, balance: float) -> Tensor:
    """Return how many of as many images an epoch shows of each class, int64 ``[K]``; at least one where there is one.

    A class of n images has a share in proportion to n to the power of 1 - ``balance``: at 0 its own, at 1 that of
    every other class. What rounding leaves goes to the largest remainders, the first class first.
    """
    total = int(counts.sum())
    weights = torch.where(counts > 0, counts.double() ** (1 - balance), 0.0)
    exact = total * weights / weights.sum()
    # Rounded in the ninth digit: 10 images of two equal classes are five each on any CPU.
    counts_kept = torch.where(counts > 0, (exact + 1e-9).long().clamp(min=1), 0)
    remainders = exact - counts_kept
    while (left := total - int(counts_kept.sum())) != 0:
        step = 1 if left > 0 else -1
        able = (counts > 0) if step > 0 else (counts_kept > 1)
        place = int(torch.where(able, step * remainders, -torch.inf).argmax())
        counts_kept[place] += step
        remainders[place] -= step
    return counts_kept


def balanced_order(labels: Tensor, classes: int, balance: float, generator: torch.Generator) -> Tensor:
    """Return which image comes when in an epoch, int64 ``[N]``, as many as there are, classes by their ``quotas``.

    All images of a class come equally often but for one; which come once more is drawn.
    """
    wanted = quotas(torch.bincount(labels, minlength=classes), balance)
    chosen = []
    for label, quota in enumerate(wanted.tolist()):
        members = (labels == label).nonzero().flatten()
        rounds = -(-quota // len(members)) if len(members) else 0
        turns = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
        chosen.append(torch.cat([members[:0], *turns])[:quota])
    every = torch.cat(chosen)
    return every[torch.randperm(len(every), generator=generator)]
