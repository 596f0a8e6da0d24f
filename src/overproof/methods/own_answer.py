"""TRADES's search, which other methods share: away from one's own answer to the clean image."""

from contextlib import nullcontext

from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.functional import kl
from overproof.methods.method import Step
from overproof.models.mode import in_mode, no_gradient


def search_from_own_answer(step: Step, inner: PGD) -> Tensor:
    """Return ``x' = argmax KL(S(x) || S(x'))``, ``[N, C, H, W]``; the target is asked for once and does not move."""
    student = step.student
    with no_gradient(), nullcontext() if inner.mode == "train" else in_mode(student, training=False):
        around = student(step.x)
    return inner.at(step.progress)(student, step.x, lambda x: kl(student(x), around))
