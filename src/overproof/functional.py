"""Per-example quantities: every loss and score of the project, ``[N]``, the mean taken later and once.

Logits are ``[N, K]`` raw scores, labels ``[N]`` int64. Everything goes through ``log_softmax`` on both sides, so no
quantity needs a small constant inside a logarithm. Values are in nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return ``-log p_y`` per example, ``[N]``; smoothing mixes the label with the uniform distribution."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Return KL(teacher || student) per example, ``[N]``, summed over classes, both sides at one temperature.

    The teacher is always the target distribution. There is no ``temperature ** 2`` here: a method that uses the factor
    of Hinton et al. (2015) states it. Gradients flow into both sides; detach the one that must not learn.
    """
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    student = F.log_softmax(student_logits / temperature, dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1)


def entropy(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Return the Shannon entropy of the softened prediction per example, ``[N]``, between 0 and ``log K``."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``z_y - max_{j != y} z_j`` per example, ``[N]``: positive exactly where the prediction is right.

    Its negative is the loss of Carlini and Wagner (2017) at confidence infinity.
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own - others.amax(dim=1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio per example, ``[N]``; higher is worse for the model.

    ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`` (Croce and Hein 2020, eq. 6). Invariant to shift and scale of the
    logits. With two classes there is no third logit, and the ratio would be constant: the margin alone is returned.
    """
    if logits.shape[1] == 2:
        return -margin(logits, y)
    ordered = logits.sort(dim=1, descending=True).values
    return -margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference-of-logits ratio per example, ``[N]``; higher is nearer to ``target``.

    ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce and Hein 2020, eq. 7). With three classes there is no fourth
    logit and the third alone takes the place of the mean; with two the difference ``z_t - z_y`` is returned.
    """
    gap = difference(logits, y, target)
    if logits.shape[1] == 2:
        return gap
    ordered = logits.sort(dim=1, descending=True).values
    return gap / (ordered[:, 0] - ordered[:, 2:4].mean(dim=1) + 1e-12)


def difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return ``z_t - z_y`` per example, ``[N]``: positive where the target class beats the label."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cosine similarity of two representations ``[N, F]`` per example, ``[N]``, in [-1, 1]."""
    return F.cosine_similarity(student, teacher, dim=1, eps=1e-6)
