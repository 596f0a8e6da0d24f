"""One training step three ways: in the project's loop, in textbook fp32, and as nothing but its network passes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.functional import cross_entropy, kl
from overproof.methods.ard import ARD
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.methods.witness import search_of
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.catalogue import find_architecture
from overproof.models.classifier import Classifier
from overproof.models.cost import multiply_adds
from overproof.models.inference.fused import fused_for_attack
from overproof.models.layout import lay_out
from overproof.models.mode import in_mode
from overproof.models.weights import build, freeze
from overproof.signature import Signature
from overproof.training.cost import passes
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Constant, Training
from overproof.training.performance import Performance

CPU = torch.device("cpu")
CIFAR = Signature(channels=3, height=32, width=32, classes=10)


MOVED = Augment(crop=4, flip=True)
AS_IT_IS = Performance(compile="off")


def ard(steps: int = 10) -> ARD:
    """Return the method the precision claims are about."""
    return ARD(alpha=1.0, temperature=5.0, inner=PGD(steps=steps))


def shortened(kind: str, eps: str = "8/255") -> Method:
    """Return a method at its defaults but for its radius and a search of three steps at most; inside a wrapper too."""
    method, radius = methods()[kind](), Radius(eps)
    if hasattr(method, "threat"):
        method = replace(method, threat=Threat(eps=radius))  # type: ignore[type-var]
    search = search_of(method)
    if search is not None:
        method = replace(method, inner=replace(search, eps=radius, step=None, steps=min(search.steps, 3)))  # type: ignore[type-var]
    return replace(method, base=shortened(method.base.kind, eps)) if hasattr(method, "base") else method  # type: ignore[type-var]


def network(name: str | Architecture, seed: int, place: torch.device = CPU, like: Signature = CIFAR) -> Classifier:
    """Return a network, of CIFAR's shape unless told, with weights drawn by the seed."""
    torch.manual_seed(seed)
    return build(find_architecture(name) if isinstance(name, str) else name, like).train().to(place)


def noise(batch: int, place: torch.device = CPU, like: Signature = CIFAR) -> ImageSet:
    """Return so many random images, of CIFAR's shape unless told, on the device."""
    torch.manual_seed(0)
    images = torch.randint(256, (batch, like.channels, like.height, like.width), dtype=torch.uint8)
    labels = torch.arange(batch) % like.classes
    return ImageSet("noise", images, labels, tuple(map(str, range(like.classes)))).to(place)


def loop(
    method: Method,
    name: str | Architecture,
    batch: int,
    precision: str,
    *,
    steps: int = 1,
    place: torch.device = CPU,
    like: Signature = CIFAR,
    augment: Augment = MOVED,
    performance: Performance = AS_IT_IS,
) -> Loop:
    """Return the project's own loop over so many steps an epoch, augmentation included."""
    loader = Loader(noise(batch * steps, place, like), batch, augment, seed=0)
    training = Training(epochs=10**6, batch=batch, precision=precision, optimiser=SGD(lr=1e-4), schedule=Constant())
    teachers = {role: freeze(network(name, 1, place, like)) for role in method.roles}
    auxiliary_models = {other: network(name, 2, place, like) for other in method.auxiliary_models}
    student = network(name, 0, place, like)
    performance.prepare([student, *teachers.values(), *auxiliary_models.values()], place)
    return Loop(method, student, teachers, loader, training, seed=0, auxiliary_models=auxiliary_models)


def loop_step(method: Method, name: str, batch: int, precision: str, steps: int = 1) -> Callable[[], object]:
    """Return a function that takes an epoch of so many steps in the project's own loop, on the CPU."""
    run = loop(method, name, batch, precision, steps=steps).run()
    return lambda: next(run)


def textbook_step(name: str, batch: int, steps: int = 10, place: torch.device = CPU) -> Callable[[], None]:
    """Return a function that takes one ARD step in fp32 with NCHW layout, written as a textbook would."""
    student, teacher = network(name, 0, place), freeze(network(name, 1, place))
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    x, y = noise(batch, place).images.float() / 255, torch.arange(batch, device=place) % 10
    number = count()

    def step() -> None:
        torch.manual_seed(next(number))
        target = teacher(x)
        adv = (x + torch.empty_like(x).uniform_(-8 / 255, 8 / 255)).clamp(0, 1)
        student.eval()
        for _ in range(steps):
            adv = adv.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(student(adv), y).sum(), adv)
            moved = adv.detach() + 2 / 255 * gradient.sign()
            adv = torch.minimum(torch.maximum(moved, x - 8 / 255), x + 8 / 255).clamp(0, 1)
        student.train()
        loss = 25 * kl(student(adv.detach()), target, 5.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def matmul(n: int, place: torch.device = CPU) -> Callable[[], object]:
    """Return a function that multiplies two n x n matrices in bf16: 2 n^3 operations."""
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=place) for _ in range(2))
    return lambda: a @ b


def operations(method: Method, name: str, batch: int) -> int:
    """Return the operations in the products of one step: two per multiply-add of every pass.

    A backward pass to the pixels has one forward pass's products, a backward pass to the weights as well has two.
    """
    cost, search = passes(method), search_of(method)
    steps = search.steps if search else 0
    forwards = cost["student"].forward + steps + 2 * (cost["student"].backward - steps)
    forwards += sum(cost[role].forward + cost[role].backward for role in method.roles)
    return 2 * multiply_adds(network(name, 0), CIFAR) * forwards * batch


def steps_worth_timing(method: Method) -> int:
    """Return how many steps make about as much work as one step with a search: an epoch has hundreds, not one."""
    return max(1, 24 // passes(method)["student"].forward)


def bare_passes(
    method: Method, name: str, batch: int, precision: str, repeats: int = 1, place: torch.device = CPU
) -> Callable[[], None]:
    """Return a function that runs only the passes a method's cost counts, and the optimiser: the floor of its steps."""
    student = network(name, 0, place)
    others = {role: freeze(network(name, 1, place)) for role in method.roles}
    peers = {other: network(name, 2, place) for other in method.auxiliary_models}
    for one in (student, *others.values(), *peers.values()):
        lay_out(torch.channels_last, one)
    learning = [*student.parameters(), *(value for peer in peers.values() for value in peer.parameters())]
    optimiser = SGD(lr=1e-4).build(learning)
    x = (noise(batch, place).images.float() / 255).contiguous(memory_format=torch.channels_last)
    cost = passes(method)
    search = search_of(getattr(method, "base", method))
    steps = search.steps if search else 0
    learners = {"student": (student, steps), **{other: (peer, 0) for other, peer in peers.items()}}
    moving = "delta" in method.initial_state(next(iter(noise(batch).batches(batch))))

    def step() -> None:
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
            for role, teacher in others.items():
                for _ in range(cost[role].backward):
                    _to_pixels(teacher, x)
                with torch.no_grad():
                    for _ in range(cost[role].forward - cost[role].backward):
                        teacher(x)
            if steps:  # with the passes that a search makes of a fused network
                with fused_for_attack(student):
                    for _ in range(steps):
                        _to_pixels(student, x)
            with torch.no_grad():
                for other, (one, _) in learners.items():
                    for _ in range(cost[other].forward - cost[other].backward):
                        one(x)
        for _ in range(method.updates):
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                losses = [
                    one(x.detach().requires_grad_() if moving else x).mean()
                    for other, (one, searched) in learners.items()
                    for _ in range((cost[other].backward - searched) // method.updates)
                ]
            optimiser.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimiser.step()

    def steps_in_a_row() -> None:
        for _ in range(repeats):
            step()

    return steps_in_a_row


def search_passes(
    architecture: str | Architecture,
    like: Signature,
    batch: int,
    precision: str,
    still: bool,
    place: torch.device = CPU,
) -> Callable[[], None]:
    """Return a function that makes the ten passes of a search, of a fused network, or of one merely in eval mode."""
    model = network(architecture, 0, place, like)
    lay_out(torch.channels_last, model)
    x = (noise(batch, place, like).images.float() / 255).contiguous(memory_format=torch.channels_last)

    def search() -> None:
        with (
            torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"),
            fused_for_attack(model) if still else in_mode(model, training=False),
        ):
            for _ in range(10):
                _to_pixels(model, x)

    return search


def _to_pixels(one: nn.Module, x: Tensor) -> None:
    """Run one forward pass and one backward pass to the pixels."""
    point = x.detach().requires_grad_()
    torch.autograd.grad(one(point).sum(), point)
