"""What is known of the steps of a recorded network while they become operators: layers, and where the batch lies."""

from collections.abc import Iterable
from typing import Any, NoReturn

from torch import fx

from overproof.bounds.composed import Draft
from overproof.bounds.layers import Layer
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.movement import Move
from overproof.bounds.operators import Shape
from overproof.bounds.words import AS, IDLE, LIKE, MOVES, MOVING, SAME, name_of


class Steps:
    """The steps of a recorded network, of which some are in a draft already.

    ``results`` says what each step that depends on the image gives; ``values`` what each step gave for a batch of two.
    ``moved`` keeps what only moves values, which is the same whenever the steps are read.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        values: dict[fx.Node, Any],
        draft: Draft,
        moved: dict[tuple[fx.Node, int], tuple[Move, ...]],
        *,
        running: bool,
    ) -> None:
        self.graph_module, self.values, self.draft, self.running = graph_module, values, draft, running
        self.moved = moved
        self.results: dict[fx.Node, Layer | tuple[Layer | None, ...]] = {}
        self.framed: dict[fx.Node, tuple[int, ...]] = {}  # maps that are in the draft without their margins of -inf

    def needed(self, steps: Iterable[fx.Node]) -> list[fx.Node]:
        """Return the steps that the output depends on, in their order, and those that write into others' values."""
        steps = list(steps)
        (output,) = self.graph_module.graph.find_nodes(op="output")
        wanted = {*output.all_input_nodes}
        for step in reversed(steps):
            if step in wanted or self._seen_elsewhere(step):
                wanted.update((step, *step.all_input_nodes))
        return [step for step in steps if step in wanted]

    def _seen_elsewhere(self, step: fx.Node) -> bool:
        """Whether a step may write into what others read, although nobody reads the step."""
        if not self._in_place(step) and "out" not in step.kwargs:
            return False
        while len(step.users) < 2 and step.all_input_nodes:
            step = step.all_input_nodes[0]
        return len(step.users) > 1 or "out" in step.kwargs

    def place(self, node: fx.Node) -> str:
        """Return where in the network a step stands, as its modules are named."""
        return str(node.target) if node.op == "call_module" else node.name

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the steps that one reads and that depend on the image, as often as it reads them."""
        read: list[fx.Node] = []
        if name_of(node) in LIKE:  # of the layer itself only its kind is asked
            return read
        fx.map_arg(node.args[:1] if name_of(node) in AS else (node.args, node.kwargs), read.append)
        return [other for other in read if other in self.results]

    def layer(self, node: fx.Node) -> Layer:
        """Return the layer that a step gave."""
        layer = self.results[node]
        assert isinstance(layer, Layer)
        return layer

    def _given(self, node: fx.Node, *options: tuple[str, Any]) -> dict[str, Any]:
        """Return a function's options by name, defaults included; the first argument is the layer itself."""
        named = dict(options)
        by_name = {name: value for name, value in node.kwargs.items() if name != "out" or value is not None}
        if len(node.args) > 1 + len(options) or not set(by_name) <= {*named, "inplace"}:
            self._refuse(f"{node.name} with these options")
        named |= {name: value for (name, _), value in zip(options, node.args[1:], strict=False)} | by_name
        named.pop("inplace", None)
        return {name: fx.map_arg(value, lambda other: self.values[other]) for name, value in named.items()}

    def _batch(self, *sources: fx.Node, first: bool = False) -> Layer:
        """Return a layer in which the batch lies as in all; with ``first`` it is the first dimension, and no more."""
        layer, *others = map(self.layer, sources)
        if not all(layer.like(other) for other in others) or (first and (layer.batch, layer.parts) != (0, None)):
            raise NoBoundsError("a step on layers whose first dimension is not the batch")
        return layer

    def _ordinary(self, *sources: fx.Node) -> bool:
        """Whether the batch is the first dimension, and no more, in all."""
        return all((layer.batch, layer.parts) == (0, None) for layer in map(self.layer, sources))

    def _after(self, node: fx.Node, layer: Layer) -> Shape:
        """Return the shape for one image of what a step gives, in which the batch lies as in a layer."""
        shape = tuple(self.values[node].shape)
        if len(shape) <= layer.batch or shape[layer.batch] != 2 * (layer.parts or 1):
            raise NoBoundsError("a step that mixes the batch")
        return layer.one(shape)

    def _own(self, node: fx.Node, source: fx.Node, dims: Any) -> list[int]:
        """Return dimensions of torch's tensor as those of one image, from the end: -1 is the last."""
        rank, layer = self.values[source].dim(), self.layer(source)
        given = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
        own = {dim % rank for dim in given}
        if layer.batch in own:
            raise NoBoundsError(f"{node.name} over the batch")
        return sorted(layer.own(dim, rank) for dim in own)

    def _in_place(self, node: fx.Node) -> bool:
        """Whether a step writes into what it reads."""
        if node.op == "call_module":
            return bool(getattr(self.graph_module.get_submodule(str(node.target)), "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        augmented = name in ("iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "setitem")
        return (name.endswith("_") and not name.endswith("__")) or augmented or bool(node.kwargs.get("inplace"))

    def _shares(self, step: fx.Node) -> bool:
        """Whether what a step gives may lie in the memory of what it reads first."""
        if step.op == "placeholder" or not step.all_input_nodes:
            return False
        module = self.graph_module.get_submodule(str(step.target)) if step.op == "call_module" else None
        moves = isinstance(module, (*MOVING, *IDLE)) or name_of(step) in (MOVES | SAME | {"dropout", "getattr"})
        return moves or self._in_place(step)

    def _overwrites_others(self, step: fx.Node, before: fx.Node) -> bool:
        """Whether a step in place changes what is read later under another name than the value it writes into.

        The value itself stands for what was written from then on.
        """
        root = before
        while self._shares(root):
            root = root.all_input_nodes[0]
        waiting = [root]
        while waiting:
            one = waiting.pop()
            if one is not before and any(step < user for user in one.users):
                return True
            # What is taken from that memory later is taken as it is then.
            waiting += [
                user for user in one.users if user < step and self._shares(user) and user.all_input_nodes[0] is one
            ]
        return False

    def _refuse(self, what: str) -> NoReturn:
        raise NoBoundsError(what)
