"""From a module to a graph of operators: traced once, read as often as its parameters change."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from overproof.bounds.composed import Draft
from overproof.bounds.fold import fold_graph
from overproof.bounds.graph import Graph
from overproof.bounds.layers import Layer
from overproof.bounds.movement import Move
from overproof.bounds.operators import Shape
from overproof.bounds.probabilities import NO_SCORE
from overproof.bounds.recording import CannotRunError, trace_values
from overproof.bounds.region import Bounds
from overproof.bounds.steps import Reader
from overproof.errors import InputError
from overproof.memory import ran_out
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.models.unchanged import unchanged
from overproof.wording import one_line

_UNITS = 1024  # in the last place, which sums of as many values as a layer has may be wrong by


@dataclass(frozen=True)
class Traced:
    """A network recorded for one shape of image; ``graph`` reads its parameters as they are now."""

    network: nn.Module
    graph_module: fx.GraphModule
    values: dict[fx.Node, Any]  # what each step gave for a batch of two
    moved: dict[tuple[fx.Node, int], tuple[Move, ...]] = field(default_factory=dict)  # what only moves values

    def graph(self, *, running: bool = False) -> Graph:
        """Return the graph of operators; gradients flow to the parameters that require them.

        BatchNorm stands for its running statistics. Raises ``InputError`` where one is in train mode, so that the
        network itself would compute something else, unless ``running`` says that this is meant.
        """
        image, *steps, output = self.graph_module.graph.nodes
        draft = Draft(place="image", kind=self.values[image].dtype)
        numbers = draft.put(None, (), tuple(self.values[image].shape[1:]))
        draft.place = "normalise"
        if isinstance(self.network, Classifier) and self.network.normalises:
            deviation = self.network.std[0]
            numbers = draft.scaled(numbers, 1 / deviation, -self.network.mean[0] / deviation)
        constants = fx.Interpreter(self.graph_module)
        constants.env = dict(self.values)
        reader = Reader(self.graph_module, constants.env, draft, self.moved, running=running)
        reader.results[image] = Layer(numbers, 0)
        for node in reader.needed(steps):
            if reader.sources(node):
                reader.read(node)
            else:
                constants.env[node] = constants.run_node(node)  # parameters may have changed
        (logits,) = output.args
        last = reader.results.get(logits) if isinstance(logits, fx.Node) else None
        if not isinstance(last, Layer) or (last.batch, last.parts) != (0, None) or len(draft.shape(last.node)) != 1:
            raise InputError("bounds need a network whose output is one tensor of logits, [N, K]")
        return fold_graph(draft.nodes, last.node)


def trace(network: nn.Module, shape: Shape) -> Traced:
    """Trace a network for images of ``shape`` = (C, H, W).

    Raises ``InputError`` where its control flow depends on its input, or it has an operator without bounds, naming
    where; and where the graph does not compute what the network does. What the network stores in itself is taken back.
    """
    backbone = network.backbone if isinstance(network, Classifier) else network
    kind = type(backbone).__name__
    like = next(iter(network.parameters()), torch.zeros(0))
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), in_mode(network, training=False):
        try:
            shown = network.normalised(image) if isinstance(network, Classifier) else image
            with unchanged(network):  # what it stores on the way is no value that it could compute with
                graph_module, values = trace_values(backbone, shown.clone())
        except Exception as problem:  # whatever a foreign forward does with a value that is not there yet
            size = "x".join(map(str, shape))
            if ran_out(problem):
                raise InputError(f"{kind}: there is not enough memory to follow it on images of {size}") from problem
            if isinstance(problem, CannotRunError):
                why = (str(problem).splitlines() or ["it asserts otherwise"])[0]
                raise InputError(f"{kind} cannot be run on images of {size}: {why}") from problem
            raise InputError(
                f"bounds cannot follow {kind}: {one_line(str(problem)) or type(problem).__name__}"
            ) from problem
        traced = Traced(network, graph_module, values)
        with unchanged(network):
            graph = traced.graph(running=True)
            layers = [Bounds(image, image)]
            for node in graph.nodes[1:]:
                layers.append(graph.forward(node, layers))
            # Each has images of its own, since some write into what they are given.
            wanted, again, apart = (network(images.clone()) for images in (image, image, image[:1]))
    # Outputs may cancel to nothing but rounding, whose size is that of the largest value on the way.
    sizes = [layer.centre.abs().nan_to_num(posinf=0.0) for layer in layers]
    left_out = -NO_SCORE / 2  # by a mask
    most = max(float(size.masked_fill(size > left_out, 0).max()) for size in sizes)
    scale = float(wanted.abs().max().nan_to_num(posinf=0.0)) if isinstance(wanted, Tensor) else 0.0
    near = 1e-3 * scale + _UNITS * torch.finfo(image.dtype).eps * most

    def same(one: Any, other: Any) -> bool:
        tensors = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape
        return tensors and torch.allclose(one.to(like), other.to(like), rtol=1e-3, atol=near, equal_nan=True)

    if not same(wanted, again):
        raise InputError(f"bounds cannot follow {kind}: it keeps values from one call to the next")
    if not same(layers[-1].centre, wanted):
        raise InputError(f"bounds cannot follow {kind}: its graph computes something else than the network does")
    if not same(apart, wanted[:1]):
        raise InputError(f"bounds cannot follow {kind}: what it computes of an image depends on the others of a batch")
    return traced
