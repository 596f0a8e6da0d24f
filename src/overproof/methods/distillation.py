"""The two numbers that every distillation loss mixes, checked once: a temperature and the weight of the teacher."""

from typing import Literal

from torch import Tensor

from overproof.functional import kl

KLScale = Literal["batch", "class"]
"""``batch``: summed over classes. ``class``: divided by their number, torch's default ``mean`` (several papers)."""


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, scale: KLScale) -> Tensor:
    """Return ``temperature ** 2 * KL(teacher || student)`` at a temperature per example, ``[N]``.

    The factor keeps the gradient's size as the temperature grows (Hinton et al. 2015).
    """
    divergence = temperature**2 * kl(student_logits, teacher_logits, temperature)
    return divergence / student_logits.shape[1] if scale == "class" else divergence


def check_mix(alpha: float, temperature: float) -> None:
    """Raise ``ValueError`` for a weight outside [0, 1] or a temperature that is not positive."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of the distillation term and must be in [0, 1], got {alpha}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
