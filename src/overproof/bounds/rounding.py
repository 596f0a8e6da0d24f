"""By how much rounding may falsify a bound, as a theorem: running error analysis (Higham 2002, sections 3.1 and 3.5).

A bound of a value is a sum of products: of weights, slopes and numbers of the box along every path from the value to
the box, and of what is added on the way. Computed in any order, such a sum is wrong by at most ``gamma_n`` times the
sum of the products' magnitudes, with ``gamma_n = n u / (1 - n u)``, u half a unit in the last place of 1, and n the
number of roundings that a product meets. Slopes of a ReLU lie in [0, 1], so the magnitudes are those of one pass of
absolute values through the network, and of the heights of its chords.

It presupposes sums of products as they stand: float64 convolutions on a CPU are (no Winograd transform). In float32 the
theorem holds as well, but says nothing useful: n is some ten thousand, and ``n u`` times the magnitudes some units.
"""

from dataclasses import fields, replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from overproof.bounds.activations import MaxPool, ReLU
from overproof.bounds.graph import Graph, Layers, Node
from overproof.bounds.operators import Add, Affine, Concatenate, Conv, Linear, Pad, Reshape, Scale
from overproof.bounds.region import Bounds, Region

_EACH = 16  # roundings at an operator beside its sums: of chords, centres, radii, and of the sums of two paths
_OWN = 1.01  # the magnitudes are rounded, too


class Rounding:
    """By how much a bound of each node's values may be wrong over boxes whose numbers are at most ``most`` in size.

    ``most`` is ``[1, *shape]``, in the precision that bounds are computed in. Nodes are taken in by ``add`` in their
    order, each with bounds of its inputs; ``of`` is None from the first operator on that is not covered.
    """

    def __init__(self, graph: Graph, most: Tensor) -> None:
        self._graph, self._roundings = graph, prod(most.shape[1:]) + _EACH
        self._magnitudes: list[Tensor | None] = [most]
        self.of: list[Tensor | None] = [torch.zeros_like(most)]

    @classmethod
    def whole(cls, graph: Graph, most: Tensor, layers: Layers) -> "Rounding":
        """Return what rounding may do to bounds of every node, given bounds of all of them."""
        rounding = cls(graph, most)
        for number in range(1, len(graph.nodes)):
            rounding.add(number, layers)
        return rounding

    @property
    def last(self) -> float | None:
        """By how much a bound of any of the last node's values may be wrong; None where that is not known."""
        wrong = self.of[-1]
        return None if wrong is None else float(wrong.detach().max())

    def add(self, number: int, layers: Layers) -> Tensor | None:
        """Take the next node in; return by how much its bounds may be wrong, ``[1, *shape]``."""
        node = self._graph.nodes[number]
        inputs = [self._magnitudes[each] for each in node.inputs]
        magnitude = None
        if all(each is not None for each in inputs):
            magnitude = _magnitude(node, [each for each in inputs if each is not None], layers)
        self._roundings += _roundings(self._graph, node)
        self._magnitudes.append(magnitude)
        self.of.append(None if magnitude is None else magnitude * self._gamma(magnitude.dtype))
        return self.of[-1]

    def beta_error(self, number: int) -> Tensor:
        """Return what a beta of 1 on a node's values adds to the error of bounds of the last node, ``[1, *shape]``."""
        magnitude = self._magnitudes[number]
        if magnitude is None:
            raise ValueError(f"the rounding of node {number} is not known")
        return magnitude * self._gamma(magnitude.dtype)

    def _gamma(self, dtype: torch.dtype) -> float:
        unit = self._roundings * torch.finfo(dtype).eps / 2
        return _OWN * unit / (1 - unit)


def prove_rounding(graph: Graph, region: Region, layers: Layers) -> Rounding | None:
    """Return what rounding may do to bounds over a region in float64; None in float32, and where it is not known."""
    if region.box.lower.dtype != torch.float64:
        return None
    rounding = Rounding.whole(graph, largest_inputs(region), layers)
    return None if rounding.last is None else rounding


def largest_inputs(region: Region) -> Tensor:
    """Return the largest magnitude of each input over the regions of all examples, ``[1, *shape]``.

    For an l2 ball its radius is added, as it is to the products of a row with the ball's centre.
    """
    return torch.maximum(-region.box.lower, region.box.upper).amax(dim=0, keepdim=True) + region.eps


def _magnitude(node: Node, inputs: list[Tensor], layers: Layers) -> Tensor | None:
    """Return the sum of the magnitudes of the products that a node's values are bounded by, ``[1, *shape]``."""
    match node.operator:
        case ReLU() as relu:
            low, high = (side.to(inputs[0]) for side in layers[node.inputs[0]])
            low, high = low.amin(dim=0, keepdim=True), high.amax(dim=0, keepdim=True)
            # The chord's height at zero is less than either side; a negative value passes by its leak alone.
            height = torch.where((low < 0) & (high > 0), torch.minimum(-low, high), 0)
            return torch.where(high > 0, 1.0, relu.leak) * inputs[0] + height
        case MaxPool() as pool:
            # One of the window's inputs, or a constant that is no larger.
            return 2 * pool.forward(Bounds(inputs[0], inputs[0])).upper
        case Conv() | Linear() | Scale() | Add() | Concatenate() | Reshape() | Pad() as operator:
            tensors: dict[str, Any] = {part.name: getattr(operator, part.name) for part in fields(operator)}
            sizes = {name: tensor.abs() for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
            absolute: Affine = replace(cast(Any, operator), **sizes)
            return absolute.forward(*(Bounds(size, size) for size in inputs)).upper
        case _:
            return None


def _roundings(graph: Graph, node: Node) -> int:
    """Return how many sums and products one operator adds to a path, forwards or backwards."""
    if not isinstance(node.operator, Affine):
        return _EACH
    longest = max(prod(shape) for shape in (node.shape, *graph.shapes(node)))
    match node.operator:
        case Conv(weight=weight) | Linear(weight=weight):
            # Of a channel's inputs or outputs under the kernel, and of the bias over all outputs.
            return max(weight[0].numel(), weight[:, 0].numel()) + longest + _EACH
        case _:
            return longest + _EACH
