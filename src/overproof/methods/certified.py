"""What certified training shares: bounds of a network that is learning, ramps, a good start, and balanced bounds.

The bounds here are a loss. They are computed in the precision of the images, autocast or not, but their rounding is not
accounted for: what is proved of the trained network, ``bounds`` and ``overproof certify`` say.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Protocol, cast
from weakref import WeakKeyDictionary, proxy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from overproof.attacks.ball import Norm, Threat
from overproof.attacks.pgd import PGD
from overproof.bounds.activations import ReLU
from overproof.bounds.crown import BoundOptions, bound_by_crown, intermediate, spec_rows
from overproof.bounds.graph import Graph, Layers
from overproof.bounds.region import Bounds, Region
from overproof.bounds.rows import LinearBounds
from overproof.bounds.spec import margins
from overproof.bounds.trace import Traced, trace
from overproof.functional import cross_entropy
from overproof.methods.distillation import check_weights
from overproof.methods.method import Step, Terms
from overproof.models.classifier import Classifier
from overproof.models.mode import no_gradient

_TOLERANCE = 0.5  # Shi et al.'s tau: a mean width may double from the image to a layer, a ratio may fall to a half
# A method is a frozen value that may serve several runs, and a step knows the network alone: traces are kept by network
# and shape, weakly, so that each is made once and ends with its network. Parameters are those of the moment of use.
_traces: WeakKeyDictionary[nn.Module, dict[torch.Size, Traced]] = WeakKeyDictionary()


def graph_of(network: nn.Module, x: Tensor) -> Graph:
    """Return the graph of a network for images like ``x`` ``[N, C, H, W]``, traced once, with its present parameters.

    Compiled or wrapped networks are looked into. BatchNorm stands for its running statistics. Raises ``InputError`` for
    an operator without bounds.
    """
    inside = next((module for module in network.modules() if isinstance(module, Classifier)), network)
    known = _traces.setdefault(inside, {})
    with exactly(x):
        if x.shape[1:] not in known:
            known[x.shape[1:]] = _traced(inside, x.shape[1:])
        return known[x.shape[1:]].graph(running=True)


def _traced(network: nn.Module, shape: torch.Size) -> Traced:
    """Return the trace of a network, which it does not keep alive; the memory of traces is weak.

    A copy is traced and the traced graph then given the network's own parameters, so that following the network does
    not run it: whoever counts how often it is asked counts no more than the method asks.
    """
    channels, height, width = shape
    traced = trace(deepcopy(network), (channels, height, width))
    backbone = network.backbone if isinstance(network, Classifier) else network
    graph_module = fx.GraphModule(backbone, traced.graph_module.graph)
    return replace(traced, network=cast(nn.Module, proxy(network)), graph_module=graph_module)


@dataclass(frozen=True)
class Propagated:
    """A network's interval bounds over a region (IBP), differentiable in its parameters; what certified losses read."""

    graph: Graph
    region: Region
    layers: Layers

    def least(self, spec: Tensor, crown: float = 0.0) -> Tensor:
        """Return lower bounds ``[N, S]`` of ``spec . logits``, ``spec`` ``[N, S, K]``.

        The share ``crown`` of CROWN-IBP's (Zhang et al. 2020), the rest the interval's.
        """
        last = len(self.graph.nodes) - 1
        with exactly(self.region.box.lower):
            rows = spec_rows(spec.to(self.region.box.lower))
            arrived = self.graph.propagate_backward({last: rows}, self.layers, stop=True)
            least = sum(self._by_interval(each, number) for number, each in arrived.items())
            if crown:
                linear = bound_by_crown(
                    self.graph, {last: rows}, self.layers, self.region, BoundOptions(method="crown_ibp")
                )
                least = (1 - crown) * least + crown * linear.view(spec.shape[:2])
        return cast(Tensor, least)

    def cross_entropy(self, y: Tensor, crown: float = 0.0) -> Tensor:
        """Return the cross-entropy of the worst logits the margins' bounds allow, ``[N]`` (Gowal et al. 2018).

        At least the cross-entropy anywhere in the region.
        """
        least = self.least(margins(y, self.graph.classes), crown)
        return F.softplus((-least).logsumexp(dim=1))

    def margins(self, y: Tensor, crown: float = 0.0) -> Bounds:
        """Return bounds ``[N, K - 1]`` of ``z_j - z_y``, j != y: the margins of ``bounds.softmax``."""
        spec = margins(y, self.graph.classes)
        above, below = self.least(torch.cat([spec, -spec], dim=1), crown).chunk(2, dim=1)
        return Bounds(below, -above)

    def imbalance(self) -> Tensor:
        """Return the regulariser of Shi et al. (2021), a scalar: zero for tight bounds and balanced ReLUs.

        For every layer that a ReLU reads, with mean width D of its bounds (D_0 of the image), centres c and tolerance
        t = 1/2: ``relu(t - D_0 / D) / t``, and ``relu(t - min(r, 1/r)) / t`` for r the ratio of the sums of c, and of
        ``(c - mean c)^2``, over neurons that are surely active to those over neurons that surely are not.
        """
        with exactly(self.region.box.lower):
            width = self.region.box.radius.mean()
            read = [
                self.layers[number]
                for number, readers in self.graph.read_by.items()
                if any(isinstance(reader, ReLU) for reader in readers)
            ]
            terms = [width.new_zeros(())]
            for bounds in read:
                centre = bounds.centre
                on, off = bounds.lower > 0, bounds.upper < 0
                spread = (centre - centre.mean()).square()
                ratios = [
                    width / bounds.radius.mean().clamp_min(torch.finfo(width.dtype).tiny),
                    _ratio((centre * on).sum(), -(centre * off).sum()),
                    _ratio((spread * on).sum(), (spread * off).sum()),
                ]
                terms += [F.relu(_TOLERANCE - ratio) / _TOLERANCE for ratio in ratios]
            return torch.stack(terms).sum() / max(1, len(read))

    def balanced(self, weight: float) -> Terms:
        """Return the term ``balance`` at a weight; nothing where that is 0."""
        return {"balance": weight * self.imbalance()} if weight else {}

    def _by_interval(self, rows: LinearBounds, number: int) -> Tensor:
        """Return least values of rows over the bounds of one node, ``[N, S]``; the same sums as one matrix product."""
        if number == 0:
            return rows.minimum(self.region).view(len(self.region), -1)
        weight = rows.weight.view(len(self.region), -1, rows.weight[0].numel())
        bounds = self.layers[number]
        centre, radius = (side.flatten(1)[:, :, None] for side in (bounds.centre, bounds.radius))
        return (weight @ centre - weight.abs() @ radius).squeeze(2) + rows.bias.view(len(self.region), -1)


def propagated(network: nn.Module, x: Tensor, eps: float, norm: Norm) -> Propagated:
    """Return a network's interval bounds over the ball of radius ``eps`` around ``x``, within [0, 1]."""
    region = region_of(x, eps, norm)
    graph = graph_of(network, region.box.lower)
    with exactly(x):
        return Propagated(graph, region, intermediate(graph, region, "ibp"))


def region_of(x: Tensor, eps: float, norm: Norm) -> Region:
    """Return the ball of radius ``eps`` around pixels ``[N, C, H, W]``, within [0, 1]; see ``check_certified``."""
    return Region.around(x, eps, "l2" if norm == "l2" else "linf")


def exactly(x: Tensor) -> torch.autocast:
    """Keep the images' own precision for a while: bf16 is too coarse for differences of bounds."""
    return torch.autocast(x.device.type, enabled=False)


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """Return the smaller of two sums over the larger."""
    return torch.minimum(one, other) / torch.maximum(one, other).clamp_min(torch.finfo(one.dtype).tiny)


def search_in_training() -> PGD:
    """Return the search beside bounds, of ``sabr`` and ``mtl_ibp``: eight steps, eps growing over half of the run."""
    return PGD(steps=8, ramp=0.5)


def risen(progress: float, ramp: float) -> float:
    """Return how far a ramp over the share ``ramp`` of the run has come, in [0, 1]."""
    return min(1.0, progress / ramp) if ramp else 1.0


def between(ends: tuple[float, float], share: float) -> float:
    """Return the value at a share of the way from the first to the second."""
    return ends[0] + share * (ends[1] - ends[0])


class _Options(Protocol):
    """What ``ibp`` and ``crown_ibp`` share; their cards say what it means."""

    @property
    def threat(self) -> Threat: ...
    @property
    def ramp(self) -> float: ...
    @property
    def kappa(self) -> tuple[float, float]: ...
    @property
    def balance(self) -> float: ...
    @property
    def scaled_start(self) -> bool: ...


def worst_case(step: Step, options: _Options, crown: tuple[float, float] = (0.0, 0.0)) -> Terms:
    """Return ``label``, ``certified`` and, during the ramp, ``balance``; ``crown``: CROWN-IBP's shares."""
    prepare(step, scaled_start=options.scaled_start)
    share = risen(step.progress, options.ramp)
    kappa = between(options.kappa, share)
    terms: Terms = {}
    if kappa:
        terms["label"] = kappa * cross_entropy(step.student(step.x), step.y).mean()
    else:
        update_statistics(step)
    around = propagated(step.student, step.x, share * options.threat.eps, options.threat.norm)
    terms["certified"] = (1 - kappa) * around.cross_entropy(step.y, between(crown, share)).mean()
    return {**terms, **around.balanced((1 - share) * options.balance)}


def prepare(step: Step, *, scaled_start: bool) -> None:
    """Scale the student's weights at the first update of a run, where that is wanted."""
    if scaled_start and step.progress == 0:
        initialise(step.student)


def initialise(network: nn.Module) -> None:
    """Scale every weight of a convolution or linear layer, in place, so that intervals neither grow nor vanish.

    Shi et al. (2021) draw weights with a deviation of ``sqrt(2 pi) / fan_in``, whose mean size is ``2 / fan_in``: each
    layer then doubles the width of a box, and its ReLU halves it. Here the weights that are there get this mean size,
    which needs no draw.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                size = module.weight.abs().mean().clamp_min(torch.finfo(module.weight.dtype).tiny)
                module.weight.mul_(2 / (module.weight[0].numel() * size))


def update_statistics(step: Step) -> None:
    """Show the student the clean batch without a gradient, where it has a BatchNorm whose statistics bounds read."""
    if any(isinstance(module, _BatchNorm) and module.training for module in step.student.modules()):
        with no_gradient():
            step.student(step.x)


def check_certified(norm: Norm, ramp: float, balance: float) -> None:
    """Raise ``ValueError`` for a norm without bounds, a ramp that is no share of the run or a negative weight."""
    if norm == "l1":
        raise ValueError("there are bounds for the norms linf and l2, not for l1")
    check_shares(ramp=(ramp,))
    check_weights(balance=balance)


def check_shares(**shares: tuple[float, ...]) -> None:
    """Raise ``ValueError`` where a share is outside [0, 1]; the keywords are the options' names."""
    for name, values in shares.items():
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"{name} is a share and must be in [0, 1], got {', '.join(f'{v:g}' for v in values)}")
