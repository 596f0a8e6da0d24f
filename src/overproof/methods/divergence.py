"""What a distillation method measures between the student's answer and its target: KL, or KL decoupled.

The KL divergence has, in the logits z of the target and z~ of the student, the gradient of a weighted squared distance
of all pairwise differences of logits plus a cross-entropy with soft labels, if gradients are stopped where KL has none
(Cui et al., NeurIPS 2024, "Decoupled Kullback-Leibler divergence loss"). Its improved forms let the gradient of the
distance reach the student, and weigh it by the mean prediction of the example's class instead of the example's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor

from overproof.functional import kl
from overproof.methods.distillation import check_weights

if TYPE_CHECKING:
    from overproof.methods.method import Step

Between = Callable[..., Tensor]
"""``between(student_logits, teacher_logits, temperature=1.0)`` per example, ``[N]``."""
_KEPT = 0.999  # of what the class means remember, per batch: a few epochs of a small data set


@dataclass(frozen=True, kw_only=True)
class KL:
    """The Kullback-Leibler divergence of the student from the target: what the papers of all methods here use."""

    kind: Literal["kl"] = "kl"

    def on(self, step: "Step", of: str = "robust") -> Between:
        """Return ``functional.kl``."""
        del step, of
        return kl


@dataclass(frozen=True, kw_only=True)
class IKL:
    """Improved KL (Cui et al., NeurIPS 2024), with the target of a distillation in the place of the clean image.

    Formula per example: ``distance 1/4 sum_jk w_jk ((z_j - z_k) - (z~_j - z~_k))^2 + soft_label KL(p || p~)``, ``w = s
    s^T`` with s the mean prediction, at ``prior_temperature``, of the targets of the example's class. The authors' code
    has a cross-entropy in the place of KL, which has the same gradient as the target is fixed. The class means are an
    exponential average over batches (there: of the last epoch); a class that was not seen has the uniform prediction.
    Published for adversarial training (weights 20 and 4) and clean distillation; for adversarial distillation it is a
    reading of ours, with weights of 1.
    """

    kind: Literal["ikl"] = "ikl"
    distance: float = 1.0
    soft_label: float = 1.0
    prior_temperature: float = 4.0

    def __post_init__(self) -> None:
        _check(self)

    def on(self, step: "Step", of: str = "robust") -> Between:
        """Return the divergence on this batch from the targets of the teacher ``of``, whose class means it moves."""
        return partial(_decoupled, self, 1.0, False, step, of)


@dataclass(frozen=True, kw_only=True)
class GKL:
    """Generalised KL (Cui et al., TPAMI 2026): IKL whose class means are flattened by a ``power``.

    Formula: as IKL with ``w = s^power (s^power)^T``, divided by the mean of its sum over the batch. The authors' powers
    are 0.2 for 10 classes and 0.4 for 100 at temperature 1, or 1 at temperature 4.
    """

    kind: Literal["gkl"] = "gkl"
    distance: float = 1.0
    soft_label: float = 1.0
    prior_temperature: float = 1.0
    power: float = 0.2

    def __post_init__(self) -> None:
        _check(self)
        check_weights(power=self.power)

    def on(self, step: "Step", of: str = "robust") -> Between:
        """Return the divergence on this batch from the targets of the teacher ``of``, whose class means it moves."""
        return partial(_decoupled, self, self.power, True, step, of)


Divergence = KL | IKL | GKL


def check_log_eps(divergence: Divergence, log_eps: float) -> None:
    """Raise ``ValueError`` where the constant inside KL's logarithm is asked of a divergence that has none."""
    if log_eps and not isinstance(divergence, KL):
        raise ValueError(
            f"log_eps is a constant in the logarithm of kl, which {divergence.kind} does not have; set it to 0"
        )


def _check(divergence: IKL | GKL) -> None:
    check_weights(distance=divergence.distance, soft_label=divergence.soft_label)
    if not divergence.prior_temperature > 0:
        raise ValueError(f"prior_temperature must be positive, got {divergence.prior_temperature}")


def _decoupled(
    divergence: IKL | GKL,
    power: float,
    shared: bool,
    step: "Step",
    of: str,
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Return the decoupled divergence per example, ``[N]``; ``shared``: divided by the batch's mean weight."""
    prior = _class_means(step, teacher_logits, divergence.prior_temperature, of) ** power
    weight = prior.sum(dim=1)
    # With w = s s^T the sum over all pairs is twice a variance under s.
    gap = (teacher_logits - student_logits) / temperature
    share = prior / weight[:, None]
    centred = gap - (share * gap).sum(dim=1, keepdim=True)
    distance = weight**2 * (share * centred**2).sum(dim=1) / 2
    if shared:
        distance = distance / step.part.mean((weight**2).mean())
    return divergence.distance * distance + divergence.soft_label * kl(student_logits, teacher_logits, temperature)


def _class_means(step: "Step", teacher_logits: Tensor, temperature: float, of: str) -> Tensor:
    """Return the mean prediction of each example's class, ``[N, K]``, this batch included; moves the memory."""
    target = F.softmax(teacher_logits.detach() / temperature, dim=1)
    classes = target.shape[1]
    labels = F.one_hot(step.y, classes).to(target) if step.y.dim() == 1 else step.y.to(target)
    name = f"class_sums_{of}"  # [K, K + 1]: the sums of the predictions of each class, and how many there were
    counted = F.pad(target, (0, 1), value=1.0)
    fresh = step.part.mean(labels.T @ counted / len(target))
    step.state[name] = fresh + _KEPT * step.state[name] if name in step.state else fresh
    sums, count = step.state[name][:, :-1], step.state[name][:, -1:]
    means = (sums / count.clamp_min(1e-12)).where(count > 0, target.new_tensor(1 / classes))
    return labels @ means
