"""What distillation losses share: the scale of their KL, a temperature, and the weight of the teacher, checked once."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from overproof.functional import kl

KLScale = Literal["batch", "class"]
"""``batch``: summed over classes. ``class``: divided by their number, torch's default ``mean`` (several papers)."""


def softened_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    scale: KLScale,
    between: Callable[..., Tensor] = kl,
) -> Tensor:
    """Return ``temperature ** 2 * KL(teacher || student)`` at a temperature per example, ``[N]``.

    The factor keeps the gradient's size as the temperature grows (Hinton et al. 2015). ``between`` is another
    divergence than KL (see ``divergence``).
    """
    return scaled(temperature**2 * between(student_logits, teacher_logits, temperature), student_logits, scale)


def shifted_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    scale: KLScale,
    log_eps: float,
    between: Callable[..., Tensor] = kl,
) -> Tensor:
    """Return KL(teacher || student) with ``log(p + log_eps)`` for the teacher's logarithm, per example, ``[N]``.

    The form of the RSLAD and MTARD codes (1e-5): the constant shifts the value, never the student's gradient.
    ``between`` is another divergence than KL, which has no such constant.
    """
    divergence = between(student_logits, teacher_logits)
    if log_eps:
        p = F.softmax(teacher_logits, dim=1)
        divergence = divergence + (p * ((p + log_eps).log() - F.log_softmax(teacher_logits, dim=1))).sum(dim=1)
    return scaled(divergence, student_logits, scale)


def scaled(divergence: Tensor, logits: Tensor, scale: KLScale) -> Tensor:
    """Return a divergence ``[N]`` summed over the classes of ``logits`` ``[N, K]``, or divided by their number."""
    return divergence / logits.shape[1] if scale == "class" else divergence


def check_weights(**weights: float) -> None:
    """Raise ``ValueError`` where a weight is negative; the keywords are the options' names."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} is a weight and cannot be negative, got {weight}")


def check_mix(alpha: float, temperature: float) -> None:
    """Raise ``ValueError`` for a weight outside [0, 1] or a temperature that is not positive."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of the distillation term and must be in [0, 1], got {alpha}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
