"""Steps of a recorded network that only move values, and constants that they put beside them."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from overproof.bounds import maps
from overproof.bounds.layers import Layer, Made, alike
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.movement import ELSEWHERE, Move, moves
from overproof.bounds.operators import Concatenate, Gather, Operator
from overproof.bounds.sources import Steps
from overproof.bounds.words import JOINING, MOVES, MOVING, PADDING, name_of, padding_of


class Mover(Steps):
    """Adds those steps to the draft."""

    def _moves(self, node: fx.Node, sources: Sequence[fx.Node], name: str) -> Made | None:
        """Return what a step gives that only moves values, None for any other step."""
        module = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and not isinstance(module, (*MOVING, *PADDING, nn.Upsample)):
            return None
        padding = isinstance(module, PADDING) or name == "pad"
        attribute = name == "getattr" and isinstance(self.values[node], Tensor)
        nearest = isinstance(module, nn.Upsample) or name == "interpolate"
        mode = getattr(module, "mode", node.kwargs.get("mode", "nearest")) if nearest else ""
        if nearest and mode not in ("nearest", "nearest-exact"):
            return None
        if module is None and not (padding or attribute or nearest or name in MOVES):
            return None
        if padding and (plain := self._zeros(node, module)) is not None:
            self._batch(*sources, first=True)
            return [plain]
        along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        whole = (
            len(sources) == len(node.args[0]) if name in JOINING and isinstance(node.args[0], tuple | list) else False
        )
        if whole and name in ("cat", "concat", "concatenate") and along == 1 and self._ordinary(*sources):
            return [Concatenate()]
        layers = list(dict.fromkeys(sources))
        constant = name in JOINING and not whole
        filling = self._filling(node, module) if padding else 0.0
        if filling == -inf and self.values[node].dim() == 4 and all(map(self._pools, node.users)):
            self._batch(*sources)
            self.framed[node] = tuple(padding_of(node, module, self.values)[0])
            return self.layer(sources[0])
        if not isfinite(filling):
            raise NoBoundsError("padding with infinity")
        constant = constant or filling != 0
        found = self._moved(node, 0, layers, self._run(node, layers, module, elsewhere=True))
        if not constant:
            made = tuple(self._taken(move, layers) for move in found)
            return made[0] if isinstance(self.values[node], Tensor) else made
        (move,) = found
        return self._beside(move, layers, self._run(node, layers, module, elsewhere=False), self.values[node])

    def _assigned(self, node: fx.Node) -> Layer:
        """Return a layer, or a constant, parts of which are given other values."""
        target, place, _ = node.args
        assert isinstance(target, fx.Node)
        layers = list(dict.fromkeys(self.sources(node)))
        inside: list[fx.Node] = []
        fx.map_arg(place, inside.append)
        if any(each in self.results for each in inside) or target not in self.results:
            raise NoBoundsError("a place that depends on the image, or parts of a constant that do")
        if self._overwrites_others(node, target):
            raise NoBoundsError("a step in place on a value that others read")

        def run(*tensors: Tensor, elsewhere: bool = True) -> Tensor:
            given = dict(zip(layers, tensors, strict=True))
            found = given[target].clone()
            at: Any
            value: Any
            at, value = fx.map_arg((place, node.args[2]), lambda other: given.get(other, self.values[other]))
            constant = node.args[2] not in given
            found[at] = ELSEWHERE if constant and elsewhere else value
            return found

        (move,) = self._moved(node, 0, layers, run)
        return self._beside(move, layers, partial(run, elsewhere=False), self.values[target])

    def _beside(self, move: Move, layers: Sequence[fx.Node], function: Callable[..., Tensor], like: Tensor) -> Layer:
        """Add what a move gives of layers, and the constants that the step puts beside their values."""
        layer = self._taken(move, layers)
        none = [torch.zeros_like(self.values[other]) for other in layers]
        shift = alike(function(*none), move.batch, move.parts)
        if shift is None:
            raise NoBoundsError("another constant for each image")
        return layer.at(self.draft.scaled(layer.node, like.new_ones(()), shift)) if shift.any() else layer

    def _pools(self, node: fx.Node) -> bool:
        """Whether a step takes the largest values under windows, which padding with minus infinity does not change."""
        if node.op == "call_module":
            return isinstance(self.graph_module.get_submodule(str(node.target)), nn.MaxPool2d)
        return name_of(node) == "max_pool2d"

    def _moved(
        self, node: fx.Node, number: int, layers: Sequence[fx.Node], function: Callable[..., Any]
    ) -> tuple[Move, ...]:
        if (node, number) not in self.moved:
            forms = [(self.draft.shape(each.node), each.batch, each.parts) for each in map(self.layer, layers)]
            self.moved[node, number] = moves(function, forms)
        return self.moved[node, number]

    def _taken(self, move: Move, layers: Sequence[fx.Node]) -> Layer:
        """Add what a move gives of layers to the draft."""
        read = [self.layer(other).node for other in layers]
        shape, device = tuple(move.index.shape), self.values[layers[0]].device
        sizes = [self.draft.nodes[one].shape for one in read]
        total = sum(torch.Size(size).numel() for size in sizes)
        if len(read) > 1:
            flat = [
                self.draft.reshaped(one, (torch.Size(size).numel(),)) for one, size in zip(read, sizes, strict=True)
            ]
            read = [self.draft.put(Concatenate(), flat, (total,))]
        if move.keeps_order(total):
            return Layer(self.draft.reshaped(read[0], shape), move.batch, move.parts)
        return Layer(self.draft.put(Gather(index=move.index.to(device)), read, shape), move.batch, move.parts)

    def _run(
        self, node: fx.Node, layers: Sequence[fx.Node], module: nn.Module | None, *, elsewhere: bool
    ) -> Callable[..., Any]:
        """Return a step as a function of its layers; with ``elsewhere`` its constants stand for no layer's values."""
        joining = name_of(node) in JOINING

        def run(*tensors: Tensor) -> Any:
            given = dict(zip(layers, tensors, strict=True))

            def argument(other: fx.Node) -> Any:
                value = given[other] if other in given else self.values[other]
                if other in given or not isinstance(value, Tensor):
                    return value
                if joining and elsewhere:
                    return torch.full(value.shape, ELSEWHERE, dtype=torch.float64)
                return value if not joining else value.to(tensors[0])

            args: Any
            args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
            if module is not None or name_of(node) == "pad":
                margins, mode, value = padding_of(node, module, self.values)
                if margins is not None:
                    filled = {"value": ELSEWHERE if elsewhere else value} if mode == "constant" else {}
                    return F.pad(args[0], margins, mode, **filled)
                if isinstance(module, nn.Unfold):
                    return module(args[0] - ELSEWHERE) + ELSEWHERE if elsewhere else module(args[0])
                return module(*args, **kwargs) if module is not None else None
            if node.op == "call_function" and name_of(node) == "unfold" and elsewhere:  # zeros come in at the edges
                return node.target(args[0] - ELSEWHERE, *args[1:], **kwargs) + ELSEWHERE  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

        return run

    def _zeros(self, node: fx.Node, module: nn.Module | None) -> Operator | None:
        """Return zeros around a map, None for any other padding."""
        margins, mode, value = padding_of(node, module, self.values)
        if mode != "constant" or value or len(margins) != 4 or min(margins) < 0 or self.values[node].dim() != 4:
            return None
        return maps.pad_map(margins)

    def _filling(self, node: fx.Node, module: nn.Module | None) -> float:
        _, mode, value = padding_of(node, module, self.values)
        return float(value or 0.0) if mode == "constant" else 0.0
