"""A network as a graph of operators, and walking it: forwards with boxes, backwards with rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from overproof.bounds.activations import Activation, ReLU
from overproof.bounds.operators import (
    Affine,
    Concatenate,
    Contract,
    Conv,
    Gather,
    Linear,
    Operator,
    Pad,
    Reshape,
    Scale,
    Shape,
    one_hot,
)
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

Layers = Sequence[Bounds]
"""The bounds of every node's values, ``[N, *shape]``; the first are the region's box."""


@dataclass(frozen=True)
class Node:
    """One operator, the numbers of the nodes it reads, the shape of its output, and where it stood in the network."""

    operator: Operator | None  # None for the input
    inputs: tuple[int, ...]
    shape: Shape
    place: str


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """What the relaxation of each ReLU leaves to choose, by the ReLU's number, and what was met on the way.

    ``slopes`` are lower slopes in [0, 1], shaped as the rows' weights; a missing one is set to CROWN's. ``signs``
    ``[N, *shape]`` says where an input is known to be positive (1) or negative (-1), and 0 elsewhere; ``betas`` >= 0,
    shaped as the rows' weights, charge a row for leaving that side (Lagrange multipliers: beta-CROWN, Wang et al.
    2021). Whatever they are, the bound is valid. ``met`` keeps the weights of the rows over each ReLU's output.
    """

    slopes: dict[int, Tensor] = field(default_factory=dict)
    betas: dict[int, Tensor] = field(default_factory=dict)
    signs: Mapping[int, Tensor] = field(default_factory=dict)
    met: dict[int, Tensor] = field(default_factory=dict)

    def slope(self, number: int, activation: Activation, rows: LinearBounds, before: Bounds) -> Tensor | None:
        """Return the lower slopes for these rows over an activation's output, None where it has none to choose."""
        if not isinstance(activation, ReLU):
            return None
        self.met[number] = rows.weight.detach()
        if number not in self.slopes:
            self.slopes[number] = rows.values(activation.slope(before))
        return self.slopes[number]

    def with_betas(self, number: int, rows: LinearBounds) -> LinearBounds:
        """Return rows over a ReLU's input, lowered where the input has its known sign, and so raised elsewhere."""
        if number not in self.signs:
            return rows
        signs = rows.values(self.signs[number])
        if number not in self.betas:
            self.betas[number] = torch.zeros_like(rows.weight)
        return rows.with_weight(rows.weight - self.betas[number] * signs)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each comes after those it reads; the first is the image, the last the logits."""

    nodes: tuple[Node, ...]

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.nodes[-1].shape[0]

    def to(self, dtype: torch.dtype) -> "Graph":
        """Return the graph in another precision."""
        return Graph(tuple(replace(n, operator=n.operator.to(dtype) if n.operator else None) for n in self.nodes))

    @cached_property
    def read_by(self) -> Mapping[int, tuple[Activation, ...]]:
        """The activations that read a node, by the number of the node."""
        readers: dict[int, tuple[Activation, ...]] = {}
        for node in self.nodes:
            if isinstance(node.operator, Activation):
                for number in node.inputs:
                    readers[number] = (*readers.get(number, ()), node.operator)
        return readers

    @cached_property
    def straight(self) -> frozenset[int]:
        """The nodes whose interval bounds over a box are exact: at most one operator above them mixes pixels.

        Where two paths from the image meet in a sum, intervals forget that they started from the same pixels.
        """
        mixed: list[float] = [0]
        for node in self.nodes[1:]:
            match node.operator:
                case Scale() | Reshape() | Pad() | Concatenate():
                    own = 0.0
                case Gather() if _each_once(node.operator.index):
                    own = 0.0
                case Conv() | Linear() | Contract():
                    own = 1.0
                case _:
                    own = inf
            mixed.append(own + max(mixed[i] for i in node.inputs))
        return frozenset(number for number, count in enumerate(mixed) if count <= 1)

    def shapes(self, node: Node) -> list[Shape]:
        """Return the shapes of a node's inputs."""
        return [self.nodes[number].shape for number in node.inputs]

    def forward(self, node: Node, layers: Layers) -> Bounds:
        """Return interval bounds of one node from those of the nodes before it."""
        assert node.operator is not None
        return node.operator.forward(*(layers[number] for number in node.inputs))

    def neurons(self, number: int, index: Tensor, sign: Tensor) -> dict[int, LinearBounds]:
        """Return rows for single values of a node (see ``Affine.neurons``), by the node they are over."""
        node = self.nodes[number]
        if not isinstance(node.operator, Affine):
            return {number: one_hot(index, node.shape, sign)}
        return self._gathered({}, node, node.operator.neurons(index, self.shapes(node), node.shape, sign))

    def propagate_backward(
        self, rows: Mapping[int, LinearBounds], layers: Layers, *, free: Relaxation | None = None, stop: bool = False
    ) -> dict[int, LinearBounds]:
        """Propagate rows, by the node they are over, back to the image: ``{0: rows}`` that are nowhere above them.

        ``layers`` bounds the inputs of the activations on the way; ``free`` chooses what their relaxations leave open.
        With ``stop`` the rows stay where they meet an activation's output.
        """
        waiting = dict(rows)
        arrived: dict[int, LinearBounds] = {}
        while waiting:
            number = max(waiting)
            here, node = waiting.pop(number), self.nodes[number]
            if isinstance(node.operator, Affine):
                waiting = self._gathered(
                    waiting, node, node.operator.propagate_backward(here, self.shapes(node), node.shape)
                )
            elif isinstance(node.operator, Activation) and not stop:
                before = [layers[other] for other in node.inputs]
                slope = free.slope(number, node.operator, here, before[0]) if free else None
                passed = node.operator.propagate_backward(here, before, slope)
                waiting = self._gathered(
                    waiting, node, [free.with_betas(number, p) for p in passed] if free else passed
                )
            else:
                arrived[number] = here
        return arrived

    def _gathered(
        self, waiting: dict[int, LinearBounds], node: Node, parts: Sequence[LinearBounds]
    ) -> dict[int, LinearBounds]:
        for number, part in zip(node.inputs, parts, strict=True):
            shape = self.nodes[number].shape
            waiting[number] = waiting[number].add(part, shape) if number in waiting else part
        return waiting


def join_graphs(first: Graph, second: Graph) -> Graph:
    """Return two networks on one image as one graph, whose output is the logits of the first, then of the second."""
    shift, last = len(first.nodes) - 1, len(first.nodes) + len(second.nodes) - 2
    moved = [replace(n, inputs=tuple(i + shift if i else 0 for i in n.inputs)) for n in second.nodes[1:]]
    both = Node(Concatenate(), (shift, last), (first.classes + second.classes,), "pair")
    return Graph((*first.nodes, *moved, both))


def _each_once(index: Tensor) -> bool:
    """Whether no value is taken twice."""
    taken = index[index >= 0].tolist()
    return len(set(taken)) == len(taken)
