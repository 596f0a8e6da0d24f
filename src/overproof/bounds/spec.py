"""What to bound: linear functions of the logits, ``[N, S, K]``, folded into the last layer rather than subtracted."""

import torch
from torch import Tensor


def margins(classes: Tensor, of: int) -> Tensor:
    """Return rows ``z_c - z_j`` for every other class j in ascending order, ``[N, K - 1, K]``.

    ``classes`` is int64 ``[N]``, c for each example; ``of`` is K. All margins positive means that c is predicted.
    """
    eye = torch.eye(of, device=classes.device)
    number = torch.arange(of - 1, device=classes.device)
    others = number + (number >= classes[:, None])
    return eye[classes][:, None] - eye[others]


def logits(examples: int, of: int) -> Tensor:
    """Return rows for each logit itself, ``[N, K, K]``."""
    return torch.eye(of).expand(examples, of, of)
