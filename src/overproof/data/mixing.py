"""Mixup and CutMix: images of a batch mixed with others of it, and the shares of both classes as their label."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from overproof.data.images import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Mix:
    """Which image of a batch of N each is mixed with, and how; on the CPU.

    ``partner`` int64 ``[N]``; ``box`` int64 ``[N, 4]`` (top, bottom, left, right) is cut out and filled by the partner;
    where ``blend`` ``[N]`` is less than 1 the whole image is that share of itself, the rest its partner.
    """

    partner: Tensor
    box: Tensor
    blend: Tensor

    def applied(self, own: Batch, other: Batch, rows: Tensor, classes: int) -> Batch:
        """Return the images of ``rows`` ``[M]`` of the batch mixed with their partners, and labels ``[M, K]``."""
        device, (height, width) = own.x.device, own.x.shape[2:]
        blend = self.blend[rows].to(device, own.x.dtype)
        box = self.box[rows].to(device)
        down, right = torch.arange(height, device=device), torch.arange(width, device=device)
        inside = (down >= box[:, :1]) & (down < box[:, 1:2]), (right >= box[:, 2:3]) & (right < box[:, 3:])
        cut = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        whole = own.x * blend[:, None, None, None] + other.x * (1 - blend)[:, None, None, None]
        x = torch.where(cut, other.x, torch.where((blend == 1)[:, None, None, None], own.x, whole))
        share = (blend * (1 - cut.flatten(1).to(own.x.dtype).mean(dim=1)))[:, None]
        first, second = (F.one_hot(one.y, classes).to(own.x.dtype) for one in (own, other))
        return Batch(x, share * first + (1 - share) * second)


def drawn_mix(n: int, size: tuple[int, int], seed: int, *, mixup: float, cutmix: float) -> Mix:
    """Return how ``n`` images of this height and width are mixed; the shares are drawn from Beta(a, a) for each.

    ``mixup`` (Zhang et al., ICLR 2018) and ``cutmix`` (Yun et al., ICCV 2019) are their a, 0 for off; where both are on
    each image is mixed by either equally often. A cut is centred anywhere, and what would stick out is left out.
    """
    draws = np.random.default_rng(seed)
    partner = draws.permutation(n)
    cuts = draws.random(n) < (0.5 if mixup and cutmix else float(bool(cutmix)))
    blends = draws.beta(mixup, mixup, n) if mixup else np.ones(n)
    shares = draws.beta(cutmix, cutmix, n) if cutmix else np.ones(n)
    sides = np.sqrt(1 - np.where(cuts, shares, 1.0))
    box = np.zeros((n, 4), dtype=np.int64)
    for place, length in enumerate(size):
        long = np.rint(length * sides).astype(np.int64)
        begin = draws.integers(0, length, n) - long // 2
        box[:, 2 * place], box[:, 2 * place + 1] = begin.clip(0), (begin + long).clip(0, length)
    return Mix(
        partner=torch.from_numpy(partner),
        box=torch.from_numpy(box),
        blend=torch.from_numpy(np.where(cuts, 1.0, blends)),
    )
