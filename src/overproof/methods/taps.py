"""TAPS: interval bounds up to a hidden layer, and from there a search in the box they leave."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from overproof.attacks.ball import Threat
from overproof.attacks.objectives import as_objective
from overproof.bounds.activations import Activation
from overproof.bounds.graph import Graph
from overproof.bounds.region import Bounds
from overproof.bounds.spec import margins
from overproof.data.draws import drawn
from overproof.errors import InputError
from overproof.methods.certified import (
    Propagated,
    check_certified,
    exactly,
    prepare,
    propagated,
    risen,
    update_statistics,
)
from overproof.methods.distillation import check_weights
from overproof.methods.method import Method, Step, Terms

_STEP = 0.2  # of the box's width, a fifth of it after 5/8 of the steps, and again after 7/8


@dataclass(frozen=True, kw_only=True)
class TAPS(Method):
    """Training via adversarial propagation through subnetworks (Mao et al., NeurIPS 2023, "Connecting certified ...").

    Formula: ``CE(worst by search, y) * CE(worst by intervals, y)``, means over the batch. The network is cut where all
    of it passes through one layer with ``relus`` activations behind. Interval bounds of that layer over the ball are a
    box, in which for every wrong class j a search of its own looks for the least ``z_y - z_j``; the first factor is of
    these margins, the second of the margins' interval bounds. The gradient goes on from a point that was found to the
    box through a rectified linear link: to an upper end by ``max(0, 1 - (upper - z) / (link width))``, to a lower one
    likewise. ``expansion`` multiplies the gradient of the first factor, as the official code does.
    The searched loss is no bound, so that a certificate needs a verifier, as with ``sabr``; without an activation
    behind the cut both factors are the same. eps grows over the share ``ramp`` of the run; ``balance`` and
    ``scaled_start`` as in ``ibp``. Steps of the search: 0.2 of the box's width from a random start, a fifth of that
    after five and after seven eighths of ``steps``.
    """

    kind: Literal["taps"] = "taps"
    threat: Threat = field(default_factory=Threat)
    ramp: float = 0.5
    relus: int = 1
    steps: int = 8
    expansion: float = 5.0
    link: float = 0.5
    balance: float = 0.0
    scaled_start: bool = False
    roles: ClassVar[tuple[str, ...]] = ()
    bounds_student: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_certified(self.threat.norm, self.ramp, self.balance)
        check_latent(self)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``certified`` and, during the ramp, ``balance``."""
        prepare(step, scaled_start=self.scaled_start)
        update_statistics(step)
        share = risen(step.progress, self.ramp)
        around = propagated(step.student, step.x, share * self.threat.eps, self.threat.norm)
        yield {"certified": latent_loss(around, step, self), **around.balanced((1 - share) * self.balance)}


class Latent(Protocol):
    """What a search in a hidden layer's box can be told; the card of ``taps`` says what it means."""

    @property
    def relus(self) -> int:
        """Activations behind the cut, at least."""

    @property
    def steps(self) -> int:
        """Steps of every search."""

    @property
    def expansion(self) -> float:
        """Factor of the searched loss's gradient."""

    @property
    def link(self) -> float:
        """Share of the box's width over which a point sends its gradient to an end."""


def check_latent(options: Latent) -> None:
    """Raise ``ValueError`` for options that mean nothing."""
    check_weights(expansion=options.expansion)
    if options.relus < 0 or options.steps < 1:
        raise ValueError(f"relus must be at least 0 and steps at least 1, got {options.relus} and {options.steps}")
    if not 0 < options.link <= 1:
        raise ValueError(f"link is a share of the box's width, above 0 and at most 1, got {options.link}")


def latent_loss(around: Propagated, step: Step, options: Latent) -> Tensor:
    """Return the loss of TAPS, a scalar, from a network's interval bounds over the images of a step.

    A product of two means over the batch is no mean: each process adds its part's share of both factors' change.
    """
    y = step.y
    with exactly(around.region.box.lower):
        cut = cut_before(around.graph, options.relus)
        box = around.layers[cut]
        spec = margins(y, around.graph.classes).to(box.lower)
        points = _search(around.graph, cut, box, spec, options.steps)
        low, high = (end.unsqueeze(1).expand_as(points) for end in (box.lower, box.upper))
        least = _margins_at(around.graph, cut, _linked(low, high, points, options.link), spec)
        searched = F.softplus((-least).logsumexp(dim=1)).mean()
    bounded = around.cross_entropy(y).mean()
    of_search, of_bounds = step.part.mean(torch.stack([searched, bounded])).unbind()
    change = options.expansion * of_bounds * (searched - of_search) + of_search * (bounded - of_bounds)
    return of_search * of_bounds + change


def cut_before(graph: Graph, relus: int) -> int:
    """Return the last node that all of the network passes through with so many activations, or more, behind it.

    It is an activation's output, or the image. Raises ``InputError`` where the network has fewer activations.
    """
    active = [number for number, node in enumerate(graph.nodes) if isinstance(node.operator, Activation)]
    if len(active) < relus:
        raise InputError(f"relus: {relus} activations behind the cut are more than this network's {len(active)}")
    for number in reversed([0, *active]):
        behind = graph.nodes[number + 1 :]
        if sum(other > number for other in active) >= relus and all(min(node.inputs) >= number for node in behind):
            return number
    return 0


def _search(graph: Graph, cut: int, box: Bounds, spec: Tensor, steps: int) -> Tensor:
    """Return for every wrong class the point of the box with the least margin that was met, ``[N, K - 1, *shape]``."""
    low, high = (end.detach().unsqueeze(1) for end in (box.lower, box.upper))
    width, rows = high - low, spec.shape[1]
    # One draw per row of the batch, whatever the number of processes.
    shares = drawn(lambda like: torch.rand(len(like), rows, *like.shape[1:]).to(like), low.squeeze(1))
    points = low + shares * width
    margin = as_objective(lambda flat: -_margins_at(graph, cut, flat.view(points.shape), spec).flatten())
    best, most = points, torch.full(spec.shape[:2], -torch.inf, device=low.device, dtype=low.dtype)
    length = _STEP
    for number in range(steps + 1):
        found, slope = (part.view(*spec.shape[:2], *part.shape[1:]) for part in margin.ascend(points.flatten(0, 1)))
        better = found > most
        most = torch.where(better, found, most)
        best = torch.where(better.view(*better.shape, *[1] * (points.dim() - 2)), points, best)
        if number in (5 * steps // 8, 7 * steps // 8):
            length /= 5
        points = torch.minimum(torch.maximum(points + length * width * slope.sign(), low), high)
    return best


def _margins_at(graph: Graph, cut: int, points: Tensor, spec: Tensor) -> Tensor:
    """Return the margin ``[N, K - 1]`` of each row of ``spec`` at its own point, ``[N, K - 1, *shape]``."""
    flat = points.flatten(0, 1)
    layers = {cut: Bounds(flat, flat)}  # a box that is a point: what is propagated is the network itself
    for number in range(cut + 1, len(graph.nodes)):
        node = graph.nodes[number]
        assert node.operator is not None
        layers[number] = node.operator.forward(*(layers[other] for other in node.inputs))
    logits = layers[len(graph.nodes) - 1].centre.view(*points.shape[:2], -1)
    return (spec * logits).sum(dim=2)


def _linked(low: Tensor, high: Tensor, points: Tensor, share: float) -> Tensor:
    linked: Tensor = _Link.apply(low, high, points, share)  # type: ignore[no-untyped-call]
    return linked


class _Link(torch.autograd.Function):
    """The points of a box, whose gradient becomes that of the box's ends."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, points: Tensor, share: float) -> Tensor:
        ctx.save_for_backward(low, high, points)
        ctx.share = share
        return points.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        low, high, points = ctx.saved_tensors
        reach = ctx.share * (high - low)
        flat = reach <= torch.finfo(reach.dtype).tiny
        parts = (
            torch.where(flat, 0.5, (1 - distance / reach.masked_fill(flat, 1.0)).clamp_min(0))
            for distance in (points - low, high - points)
        )
        to_low, to_high = (slope * part for part in parts)
        return to_low, to_high, None, None
