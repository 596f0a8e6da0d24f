"""An ONNX graph on its way to a torch network: the values met so far, and the graph that is being written.

Only shapes are kept, of a batch of ``BATCH`` images: every step is taken once on zeros. (On torch's meta device that
would cost a second, for what it imports.) A transposed layer is written where it is used as one, so that
what a file transposes and transposes back (TensorFlow's does) leaves nothing behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from overproof.wording import one_line

BATCH = 3
_MOST_NUMBERS = 1 << 28  # in one value; more is a mistake, or meant to fill the memory


class Unconverted(Exception):  # noqa: N818 - it is caught where a file falls back to queries, and no error to a user
    """What of a file has no form in torch, in words for a user."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeOutput:
    """A value that depends on the images: a node of the graph, and how the value lies in what the node gives.

    ``like`` has the shape of the node's output. The value is that with its dimensions permuted by ``axes``, or,
    of features ``[N, F]``, with the features in the given ``order``; None leaves it as it is.
    """

    node: fx.Node
    like: Tensor
    axes: tuple[int, ...] | None = None
    order: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value for ``BATCH`` images."""
        shape = tuple(self.like.shape)
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)

    @property
    def rank(self) -> int:
        """How many dimensions the value has, the batch included."""
        return self.like.dim()


Value = NodeOutput | Tensor
"""A layer, or a constant."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One operator of the file: its kind, its attributes by name, its inputs (None: left out), and its operator set."""

    kind: str
    name: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Value | None]
    opset: int
    alone: bool = False  # whether nothing else reads its first input

    def option(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default."""
        return self.attributes.get(name, default)

    def layer(self) -> NodeOutput:
        """Return the first input, which must depend on the images."""
        source = self.inputs[0] if self.inputs else None
        return source if isinstance(source, NodeOutput) else self.refuse("on constants alone")

    def constant(self, number: int) -> Tensor | None:
        """Return an input that must be a constant; None where it is left out."""
        value = self.inputs[number] if number < len(self.inputs) else None
        return self.refuse("with weights that depend on the images") if isinstance(value, NodeOutput) else value

    def numbers(self, name: str, number: int) -> list[int] | None:
        """Return whole numbers that are an attribute in older operator sets and an input in later ones."""
        if name in self.attributes:
            return [int(each) for each in self.attributes[name]]
        value = self.constant(number)
        return None if value is None else [int(each) for each in value.flatten().tolist()]

    def refuse(self, what: str) -> NoReturn:
        """Raise ``Unconverted`` for this operator."""
        named = f" (node {one_line(self.name, 60)!r})" if self.name else ""
        raise Unconverted(f"operator {one_line(self.kind, 60)}{what and ' '}{what}{named} has no form in torch")


@dataclass(eq=False)
class GraphWriter:
    """The torch graph as far as it is written; every method writes a step and returns its value."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    count: int = 0

    def begin(self, shape: Sequence[int]) -> NodeOutput:
        """Return the images ``[BATCH, C, H, W]`` of a shape ``(C, H, W)``."""
        return NodeOutput(node=self.graph.placeholder("x"), like=torch.zeros(()).expand(BATCH, *shape))

    def module(self, layer: NodeOutput, module: nn.Module) -> NodeOutput:
        """Return what a module gives for a node's output, however the value lies in it."""
        with torch.no_grad():
            like = module.eval()(layer.like)
        name = self._name(type(module).__name__.lower())
        self.root.add_module(name, module)
        return NodeOutput(node=self.graph.call_module(name, (layer.node,)), like=self._bounded(like))

    def call(self, function: Callable[..., Any], *arguments: Any) -> NodeOutput:
        """Return what a function gives for nodes' outputs, constants and plain values, also in lists."""
        nodes = [self._node(each) for each in arguments]
        with torch.no_grad():
            like = function(*(_like(each) for each in arguments))
        return NodeOutput(node=self.graph.call_function(function, tuple(nodes)), like=self._bounded(like))

    def method(self, layer: NodeOutput, name: str, *arguments: Any) -> NodeOutput:
        """Return what a tensor's method gives for a node's output and plain values."""
        like = getattr(layer.like, name)(*arguments)
        return NodeOutput(node=self.graph.call_method(name, (layer.node, *arguments)), like=self._bounded(like))

    def plain(self, value: NodeOutput) -> NodeOutput:
        """Return a layer that lies as its node gives it."""
        if value.axes is not None:
            return self.method(replace(value, axes=None), "permute", *value.axes)
        if value.order is not None:
            return self.call(torch.index_select, replace(value, order=None), 1, value.order)
        return value

    def shaped(self, value: NodeOutput, rest: Sequence[int]) -> NodeOutput:
        """Return the numbers of each image in another shape ``rest``."""
        if tuple(rest) == value.shape[1:]:
            return value
        places = torch.arange(prod(value.shape[1:]))
        if value.axes is not None:
            inner = [axis - 1 for axis in value.axes[1:]]  # the batch is first (``_transpose``)
            places = places.reshape(value.like.shape[1:]).permute(inner).flatten()
        elif value.order is not None:
            places = value.order
        moved = bool((places != torch.arange(len(places))).any())
        if moved and len(rest) > 1:
            return self.shaped(self.plain(value), rest)
        bare = replace(value, axes=None, order=None)
        if len(rest) > 1:
            return self.method(bare, "reshape", -1, *rest)
        flat = bare if bare.rank == 2 else self.module(bare, nn.Flatten())
        return replace(flat, order=places if moved else None)

    def finish(self, value: NodeOutput) -> fx.GraphModule:
        """Return the network whose output is this layer."""
        self.graph.output(self.plain(value).node)
        network = fx.GraphModule(self.root, self.graph).eval()
        network.graph.eliminate_dead_code()
        network.recompile()
        network.delete_all_unused_submodules()
        return network

    def _node(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._node(each) for each in value]
        if isinstance(value, NodeOutput):
            return value.node
        if not isinstance(value, Tensor):
            return value
        name = self._name("constant")
        self.root.register_buffer(name, value.clone())
        return self.graph.get_attr(name)

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def _bounded(self, like: Tensor) -> Tensor:
        if like.numel() > _MOST_NUMBERS * BATCH:
            raise Unconverted(f"a value of {like.numel() // BATCH:,} numbers an image is larger than is converted")
        return torch.zeros(()).expand(like.shape)


def _like(value: Any) -> Any:
    if isinstance(value, list):
        return [_like(each) for each in value]
    return value.like if isinstance(value, NodeOutput) else value
