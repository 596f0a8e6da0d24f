"""One PGD-10 ARD step in the project's loop, in fp32 NCHW, and as nothing but its network passes."""

from collections.abc import Callable
from itertools import count

import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.functional import cross_entropy, kl
from overproof.methods.ard import ARD
from overproof.models.catalogue import named
from overproof.models.classifier import Classifier
from overproof.models.weights import build, channels_last, freeze
from overproof.signature import Signature
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Constant, Training

CIFAR = Signature(channels=3, height=32, width=32, classes=10)


def networks(name: str, *, last: bool) -> tuple[Classifier, Classifier]:
    """Return a student and a frozen teacher of one architecture, channels-last or not."""
    torch.manual_seed(0)
    student, teacher = build(named(name), CIFAR).train(), freeze(build(named(name), CIFAR))
    if last:
        channels_last(student)
        channels_last(teacher)
    return student, teacher


def noise(batch: int) -> ImageSet:
    """Return one batch of random images of CIFAR's shape."""
    torch.manual_seed(0)
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    return ImageSet("noise", images, torch.arange(batch) % 10, tuple("0123456789"))


def loop_step(name: str, batch: int, precision: str, steps: int = 10) -> Callable[[], None]:
    """Return a function that takes one step of the project's own loop, data and augmentation included."""
    student, teacher = networks(name, last=True)
    loader = Loader(noise(batch), batch, Augment(crop=4, flip=True), seed=0)
    training = Training(epochs=10**6, batch=batch, precision=precision, optimiser=SGD(lr=1e-4), schedule=Constant())
    method = ARD(alpha=1.0, temperature=5.0, inner=PGD(steps=steps))
    progress = Loop(method, student, {"robust": teacher}, loader, training, seed=0).run()
    return lambda: next(progress)


def textbook_step(name: str, batch: int, steps: int = 10) -> Callable[[], None]:
    """Return a function that takes the same step as the loop, in fp32 with NCHW layout."""
    return _bare(name, batch, steps, precision="fp32", last=False, arithmetic=True)


def bare_passes(name: str, batch: int, precision: str, steps: int = 10) -> Callable[[], None]:
    """Return a function that runs only the network passes and the optimiser of a step: the floor of its cost."""
    return _bare(name, batch, steps, precision=precision, last=True, arithmetic=False)


def _bare(name: str, batch: int, steps: int, *, precision: str, last: bool, arithmetic: bool) -> Callable[[], None]:
    student, teacher = networks(name, last=last)
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    layout = torch.channels_last if last else torch.contiguous_format
    x = (noise(batch).images.float() / 255).contiguous(memory_format=layout)
    y = torch.arange(batch) % 10
    number = count()

    def step() -> None:
        torch.manual_seed(next(number))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            target = teacher(x)
            adv = _search(student, x, y, steps, arithmetic=arithmetic)
            logits = student(adv)
            loss = 25 * kl(logits, target, 5.0).mean() if arithmetic else logits.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def _search(student: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, *, arithmetic: bool) -> torch.Tensor:
    student.eval()
    adv = (x + torch.empty_like(x).uniform_(-8 / 255, 8 / 255)).clamp(0, 1) if arithmetic else x
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        loss = cross_entropy(student(adv), y).sum() if arithmetic else student(adv).sum()
        (gradient,) = torch.autograd.grad(loss, adv)
        if arithmetic:
            moved = adv.detach() + 2 / 255 * gradient.sign()
            adv = torch.minimum(torch.maximum(moved, x - 8 / 255), x + 8 / 255).clamp(0, 1)
    student.train()
    return adv.detach()
