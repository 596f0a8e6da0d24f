"""CROWN: bounds by linear functions carried back to the image (Zhang et al. 2018; Xu et al. 2020), batched.

Every neuron whose sign is open gets two rows, one for each side, whatever layer it is in; rows of a convolution carry
only the window they depend on. A neuron whose sign the layer before already decides is not refined: its relaxation is
exact, and its bounds do not enter any other.

A row over the logits is bounded with CROWN's slopes for the layers' bounds, and again with those that it would choose
had the layers not been cut by their intervals: neither choice is the better one for every row. That no row at all is
looser than by plain CROWN would need plain bounds of the layers beside ours, a second pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod
from time import monotonic
from typing import Literal

import torch
from torch import Tensor

from overproof.bounds.activations import Activation, ReLU
from overproof.bounds.afford import NotAffordedError, portions
from overproof.bounds.graph import Graph, Layers, Relaxation
from overproof.bounds.region import Bounds, Region
from overproof.bounds.rounding import Rounding, largest_inputs
from overproof.bounds.rows import LinearBounds
from overproof.bounds.slopes import AlphaOptimizer, GivenSlopes

Method = Literal["ibp", "crown_ibp", "crown", "alpha"]
METHODS: tuple[Method, ...] = ("ibp", "crown_ibp", "crown", "alpha")
"""In the order of their tightness and cost."""


_ALONE = 16  # rows of an example that are bounded apart from those of others


@dataclass(frozen=True, kw_only=True)
class BoundOptions:
    """How a bound may be computed: its method, how alpha is optimised, and how many bytes a chunk of rows may take.

    ``until`` is a moment of ``time.monotonic``: what would take longer raises ``NotAffordedError``. With ``rounding``
    the layers' bounds are widened by what rounding may have done to them, where that is known (``bounds.rounding``).
    """

    method: Method = "crown"
    optimizer: AlphaOptimizer = AlphaOptimizer()  # noqa: RUF009 - a frozen value
    memory: int = 256 * 2**20
    until: float = inf
    rounding: bool = False


class Refined(list[Bounds]):
    """Bounds of every node's values, and for which ReLUs CROWN without intervals would choose another lower slope.

    ``steep`` says by a node's number where its rows alone make a ReLU's lower slope 1, bool ``[N, *shape]``; nodes for
    which this is nowhere another choice are left out. The bounds hold without it: it only proposes slopes.
    """

    def __init__(self, layers: Iterable[Bounds] = ()) -> None:
        super().__init__(layers)
        self.steep: dict[int, Tensor] = {}

    def refine(self, number: int, rows: Bounds, readers: Iterable[Activation]) -> None:
        """Cut the bounds of a node by what its rows proved."""
        self[number] = self[number].within(rows)
        steep = rows.upper > -rows.lower
        if any(isinstance(reader, ReLU) for reader in readers) and self._differs(number, steep).any():
            self.steep[number] = steep

    def differing(self) -> Tensor:
        """Return which examples have a ReLU with another choice, bool ``[N]``."""
        differing = torch.zeros(len(self[0].lower), dtype=torch.bool, device=self[0].lower.device)
        for number, steep in self.steep.items():
            differing |= self._differs(number, steep).flatten(1).any(dim=1)
        return differing

    def _differs(self, number: int, steep: Tensor) -> Tensor:
        lower, upper = self[number]
        return (steep != (upper > -lower)) & (lower < 0) & (upper > 0)


def bound(graph: Graph, region: Region, spec: Tensor, options: BoundOptions | Method = "crown") -> Bounds:
    """Return bounds ``[N, S]`` of ``spec . logits`` over the region; ``spec`` is ``[N, S, K]``.

    Never looser than interval bounds of the same margins. Differentiable with the methods ``ibp`` and ``crown_ibp``.
    """
    options = BoundOptions(method=options) if isinstance(options, str) else options
    return final(graph, region, intermediate(graph, region, options), spec, options)


def intermediate(
    graph: Graph, region: Region, options: BoundOptions | Method = "crown", *, known: Layers | None = None
) -> Refined:
    """Return bounds of every node's values, ``[N, *shape]``, refined where an activation needs them.

    Bounds that are ``known`` already are kept, and only what these leave open is refined.
    """
    options = BoundOptions(method=options) if isinstance(options, str) else options
    layers = Refined([region.box])
    rounding = Rounding(graph, largest_inputs(region)) if options.rounding else None
    for number, node in enumerate(graph.nodes[1:], start=1):
        layers.append(graph.forward(node, layers))
        if known is not None:
            layers[number] = layers[number].within(known[number])
        readers = graph.read_by.get(number, ())
        exact = number in graph.straight and region.centre is None
        if readers and not exact and options.method in ("crown", "alpha"):
            wanted = torch.stack([reader.open(layers[number]) for reader in readers]).any(dim=0)
            layers.refine(number, _refine(graph, number, wanted, layers, region, options), readers)
        if rounding is not None and (wrong := rounding.add(number, layers)) is not None:
            layers[number] = Bounds(layers[number].lower - wrong, layers[number].upper + wrong)
    return layers


def final(graph: Graph, region: Region, layers: Layers, spec: Tensor, options: BoundOptions) -> Bounds:
    """Return bounds ``[N, S]`` of ``spec . logits`` from bounds of the layers."""
    rows = spec_rows(torch.cat([spec, -spec], dim=1).to(region.box.lower))
    lower, upper = (
        bound_rows(graph, {len(graph.nodes) - 1: rows}, layers, region, options).view(len(spec), 2, -1).unbind(dim=1)
    )
    return Bounds(lower, -upper)


def bound_rows(
    graph: Graph, rows: Mapping[int, LinearBounds], layers: Layers, region: Region, options: BoundOptions
) -> Tensor:
    """Return lower bounds of rows after the last activation, ``[M]``: the better of those by intervals and by rows."""
    by_intervals = by_interval(graph, rows, layers, region)
    return (
        by_intervals
        if options.method == "ibp"
        else torch.maximum(by_intervals, bound_by_crown(graph, rows, layers, region, options))
    )


def spec_rows(spec: Tensor) -> LinearBounds:
    """Return the rows of ``spec`` ``[N, S, K]`` over the logits, example by example."""
    examples, count, _ = spec.shape
    example = torch.arange(examples, device=spec.device).repeat_interleave(count)
    return LinearBounds(spec.flatten(0, 1), spec.new_zeros(examples * count), example)


def propagate_to_image(
    graph: Graph, rows: Mapping[int, LinearBounds], layers: Layers, options: BoundOptions
) -> LinearBounds:
    """Return linear functions of the image that are nowhere above the rows; those of two networks may be added."""
    parts = [
        graph.propagate_backward(part, layers)[0].dense(graph.nodes[0].shape) for part in _parts(graph, rows, options)
    ]
    if len(parts) == 1:
        return parts[0]
    weight, bias, example = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias", "example")
    )
    return LinearBounds(weight, bias, example)


def bound_by_crown(
    graph: Graph, rows: Mapping[int, LinearBounds], layers: Layers, region: Region, options: BoundOptions
) -> Tensor:
    """Return a lower bound of each row over the region, ``[M]``: the better of both choices of slopes."""
    lower = _bound_by_slopes(graph, rows, layers, region, options)
    if not isinstance(layers, Refined) or not layers.steep:
        return lower
    (first, *_) = rows.values()
    differing = layers.differing()[first.example].nonzero()[:, 0]
    if not len(differing):
        return lower
    steep = {number: layers.steep[before] for number, before in _relus(graph) if before in layers.steep}
    given = GivenSlopes(steep=steep)
    again = {number: each.at(differing) for number, each in rows.items()}
    try:
        parts = _parts(graph, again, replace(options, method="crown"))
        low = torch.cat([graph.propagate_backward(part, layers, free=given)[0].minimum(region) for part in parts])
    except NotAffordedError:
        return lower  # what is proved already holds without it
    return lower.index_put((differing,), torch.maximum(lower[differing], low))


def _relus(graph: Graph) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the ReLUs, each with that of the node it reads."""
    for number, node in enumerate(graph.nodes):
        if isinstance(node.operator, ReLU):
            yield number, node.inputs[0]


def _bound_by_slopes(
    graph: Graph, rows: Mapping[int, LinearBounds], layers: Layers, region: Region, options: BoundOptions
) -> Tensor:
    """Return a lower bound of each row by the slopes of the layers or of the optimiser, in chunks that fit memory."""

    def bounded(part: Mapping[int, LinearBounds], free: Relaxation | None) -> Tensor:
        return graph.propagate_backward(part, layers, free=free)[0].minimum(region)

    if options.method != "alpha":
        return torch.cat([bounded(part, None) for part in _parts(graph, rows, options)])
    bounds: list[Tensor] = []
    (first, *_), done = rows.values(), 0
    for part in _parts(graph, rows, options):
        count = len(next(iter(part.values())))
        share = (options.until - monotonic()) * count / (len(first) - done)  # each part has as long as the others
        done += count
        seconds = min(share, inf if options.optimizer.seconds is None else options.optimizer.seconds)
        optimizer = replace(options.optimizer, seconds=None if seconds == inf else seconds)
        bounds.append(optimizer.best(partial(bounded, part), Relaxation()))
    return torch.cat(bounds)


def _parts(
    graph: Graph, rows: Mapping[int, LinearBounds], options: BoundOptions
) -> Iterator[Mapping[int, LinearBounds]]:
    """Yield the rows in parts that fit the memory, and whose time can be told from that of those before."""
    (first, *_) = rows.values()
    size, most = _size(graph), _most(graph, first.weight, options)
    # The optimiser takes what time it is given, so nothing can be told from it; its caller times a backward pass.
    until = inf if options.method == "alpha" else options.until
    for part in portions(len(first), size, most, until, first.bias.device):
        whole = len(part) == len(first)
        yield rows if whole else {number: each.at(part) for number, each in rows.items()}


def _size(graph: Graph) -> int:
    """Return how many numbers a row may have."""
    return max(prod(node.shape) for node in graph.nodes)


def _most(graph: Graph, like: Tensor, options: BoundOptions) -> int:
    """Return how many rows fit the memory."""
    return max(1, options.memory // (_size(graph) * like.element_size() * (32 if options.method == "alpha" else 8)))


def by_interval(graph: Graph, rows: Mapping[int, LinearBounds], layers: Layers, region: Region) -> Tensor:
    """Return lower bounds of rows after the last activation by the intervals of what they read, ``[M]``."""
    arrived = graph.propagate_backward(rows, layers, stop=True)
    parts = [each.minimum(Region(layers[number]) if number else region) for number, each in arrived.items()]
    return torch.stack(parts).sum(dim=0)


def _one_by_one(
    graph: Graph, number: int, wanted: Tensor, layers: Layers, region: Region, options: BoundOptions
) -> Bounds:
    """Return the same example by example: rows of one example share the layers, which need not be copied for each."""
    sides, count = [], len(wanted)
    for place in range(count):
        one = slice(place, place + 1)
        now = monotonic()
        # An example that would take longer than its share is told before the others are begun.
        share = (
            options if options.until == inf else replace(options, until=now + (options.until - now) / (count - place))
        )
        alone = [each.at(one) for each in layers]
        sides.append(_refine(graph, number, wanted[one], alone, region.at(one), share))
    lower, upper = (torch.cat(side) for side in zip(*sides, strict=True))
    return Bounds(lower, upper)


def _refine(graph: Graph, number: int, wanted: Tensor, layers: Layers, region: Region, options: BoundOptions) -> Bounds:
    """Return the bounds of one node with those of the ``wanted`` values (bool ``[N, *shape]``) by rows alone."""
    before = layers[number]
    index = wanted.nonzero()
    if not len(index):
        return before
    if len(wanted) > 1 and len(index) > _ALONE * len(wanted):
        return _one_by_one(graph, number, wanted, layers, region, options)
    sides = []
    size, most = (
        2 * _size(graph),
        max(1, _most(graph, before.lower, options) // 2) if options.until < inf else len(index),
    )
    untimed = replace(options, until=inf)
    for part in portions(len(index), size, most, options.until, index.device):  # making the rows takes time as well
        sign = torch.ones(len(part), dtype=before.lower.dtype, device=index.device)
        rows = graph.neurons(number, index[part].repeat(2, 1), torch.cat([sign, -sign]))
        sides.append(_bound_by_slopes(graph, rows, layers, region, untimed).view(2, -1))
    lower, upper = torch.cat(sides, dim=1)
    at = tuple(index.T)
    return Bounds(before.lower.index_put(at, lower), before.upper.index_put(at, -upper))
