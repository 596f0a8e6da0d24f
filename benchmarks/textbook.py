"""Training steps as the methods' official scripts are written: fp32, NCHW, one file's worth of plain PyTorch each.

They do the work of our steps with the habits of those scripts, which the papers' times are of: the search asks for
gradients of the weights as well (``loss.backward()`` on an input that requires a gradient), the teacher is asked
wherever the formula mentions it, and terms are read on the host after every step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.steps import network, noise
from overproof.models.weights import freeze

EPS, STEP = 8 / 255, 2 / 255
Ascended = Callable[[Tensor], Tensor]


def search(student: nn.Module, x: Tensor, ascended: Ascended, steps: int) -> Tensor:
    """Return the adversarial images of a K-step search from a random start."""
    adv = x + torch.empty_like(x).uniform_(-EPS, EPS)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        student.zero_grad()
        ascended(adv).backward()
        adv = adv.detach() + STEP * adv.grad.sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
    return adv.detach()


def divergence(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL of softened probabilities, mean over the batch."""
    return (
        F.kl_div(F.log_softmax(logits / temperature, 1), F.softmax(target / temperature, 1), reduction="batchmean")
        * temperature**2
    )


def losses(kind: str, steps: int) -> Callable[[nn.Module, nn.Module, nn.Module, Tensor, Tensor], Tensor]:
    """Return a method's loss as a function of student, robust teacher, clean teacher, images and labels."""

    def pgd_at(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = search(student, x, lambda a: F.cross_entropy(student(a), y), steps)
        return F.cross_entropy(student(adv), y)

    def trades(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        student.eval()
        adv = search(student, x, lambda a: divergence(student(a), student(x)), steps)
        student.train()
        logits = student(x)
        return F.cross_entropy(logits, y) + 6 * divergence(student(adv), logits)

    def ard(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = search(student, x, lambda a: F.cross_entropy(student(a), y), steps)
        return divergence(student(adv), robust(x), 30.0) + 0 * F.cross_entropy(student(x), y)

    def rslad(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        target = robust(x)
        student.eval()
        adv = search(student, x, lambda a: divergence(student(a), target), steps)
        student.train()
        return 5 / 6 * divergence(student(adv), target) + 1 / 6 * divergence(student(x), target)

    def mtard(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = search(student, x, lambda a: F.cross_entropy(student(a), y), steps)
        return divergence(student(adv), robust(adv)) + divergence(student(x), clean(x))

    def kd(student: nn.Module, robust: nn.Module, clean: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = student(x)
        return 0.5 * F.cross_entropy(logits, y) + 0.5 * divergence(logits, robust(x), 30.0)

    return {"pgd_at": pgd_at, "trades": trades, "ard": ard, "rslad": rslad, "mtard": mtard, "kd": kd}[kind]


KINDS = ("pgd_at", "trades", "ard", "rslad", "mtard", "kd")


def step(kind: str, name: str, batch: int, steps: int, place: torch.device) -> Callable[[], None]:
    """Return a function that takes one step of a method on a batch of noise."""
    student, robust, clean = network(name, 0, place), freeze(network(name, 1, place)), freeze(network(name, 2, place))
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    loss_of = losses(kind, steps)
    images = noise(batch, place)

    def one() -> None:
        x, y = images.images.float() / 255, images.labels
        loss = loss_of(student, robust, clean, x, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return one
