"""IAD's loss: trust the teacher as far as it is right about the adversarial image, and oneself for the rest."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from overproof.functional import cross_entropy, kl
from overproof.methods.distillation import check_mix, softened_kl
from overproof.methods.divergence import Between
from overproof.methods.method import Step, Terms

IdleForwards = Literal["none", "official"]
"""``official``: forward passes whose result is unused and which move BatchNorm statistics, as the published code."""


def check_introspection(alpha: float, temperature: float, beta: float, warmup: float) -> None:
    """Raise ``ValueError`` for options under which trust would not be a share."""
    check_mix(alpha, temperature)
    if not beta >= 0:
        raise ValueError(f"beta is the power of the teacher's probability and cannot be negative, got {beta}")
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a share of the run, in [0, 1], got {warmup}")


def reliability(teacher_logits: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return the teacher's probability of the label at the adversarial image, to the power ``beta``, ``[N]``."""
    return F.softmax(teacher_logits, dim=1).gather(1, y[:, None]).squeeze(1) ** beta


def introspective_terms(
    step: Step,
    attacked: Tensor,
    target: Tensor,
    trust: Tensor | None,
    *,
    alpha: float,
    temperature: float,
    weigh_teacher: bool,
    detach_self: bool,
    official: bool,
    between: Between = kl,
    label_smoothing: float = 0.0,
) -> Terms:
    """Return the terms ``teacher``, ``self`` (where ``trust`` ``[N]`` is given) and ``label``.

    ``alpha t^2 KL(T^t || S^t(x'))``, times the trust where ``weigh_teacher`` (the paper's form); plus ``alpha (1 -
    trust) KL(S(x) || S(x'))``; plus ``(1 - alpha) CE(S(x), y)``. One clean pass serves ``self`` and ``label``; with
    ``official`` each has its own, and the label's runs even at alpha 1.
    """
    teacher = softened_kl(attacked, target, temperature, "batch", between)
    terms: Terms = {}
    if trust is None or not weigh_teacher:
        terms["teacher"] = alpha * step.mean(teacher)
    else:
        terms["teacher"] = alpha * step.mean(trust * teacher)
    clean = None
    if trust is not None:
        clean = own = step.student(step.x)
        own_target = own.detach() if detach_self else own
        terms["self"] = alpha * ((1 - trust) * kl(attacked, own_target)).mean()
    if alpha < 1 or official:
        read = step.student(step.x) if official or clean is None else clean
        terms["label"] = (1 - alpha) * cross_entropy(read, step.y, label_smoothing=label_smoothing).mean()
    return terms
