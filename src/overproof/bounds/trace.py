"""From a module to a graph of operators: traced once, read as often as its parameters change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from overproof.bounds.activations import MaxPool, ReLU
from overproof.bounds.fold import folded
from overproof.bounds.graph import Graph, Node
from overproof.bounds.operators import Add, Concatenate, Conv, Linear, Operator, Pad, Reshape, Scale, Shape
from overproof.bounds.region import Bounds
from overproof.bounds.rows import Pair
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, LeakyReLU, average, adaptive average and max pooling, flatten, addition, "
    "concatenation, zero padding, and dropout in eval mode"
)
_FUNCTIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "relu": (),
    "leaky_relu": (("negative_slope", 0.01),),
    "cat": (("dim", 0),),
    "concat": (("dim", 0),),
    "avg_pool2d": (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
        ("divisor_override", None),
    ),
    "adaptive_avg_pool2d": (("output_size", None),),
    "max_pool2d": (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("dilation", 1),
        ("ceil_mode", False),
        ("return_indices", False),
    ),
    "dropout": (("p", 0.5), ("training", True)),
    "pad": (("pad", None), ("mode", "constant"), ("value", None)),
    "mean": (("dim", None), ("keepdim", False)),
}
"""The options of the functions that are not plain arithmetic, in their order, with their defaults."""


@dataclass(frozen=True)
class Traced:
    """A network's course for one shape of image; ``graph`` reads its parameters as they are now."""

    network: nn.Module
    course: fx.GraphModule
    values: dict[fx.Node, Any]  # what each step gave for a batch of two

    def graph(self, *, running: bool = False) -> Graph:
        """Return the graph of operators; gradients flow to the parameters that require them.

        BatchNorm stands for its running statistics. Raises ``InputError`` where one is in train mode, so that the
        network itself would compute something else, unless ``running`` says that this is meant.
        """
        image, *steps, output = self.course.graph.nodes
        nodes = [Node(None, (), tuple(self.values[image].shape[1:]), "image")]
        if isinstance(self.network, Classifier) and self.network.normalises:
            deviation = self.network.std[0]
            normalise = Scale(factor=1 / deviation, shift=-self.network.mean[0] / deviation)
            nodes.append(Node(normalise, (0,), nodes[0].shape, "normalise"))
        numbers = {image: len(nodes) - 1}
        constants = fx.Interpreter(self.course)
        constants.env = dict(self.values)
        reader = _Reader(self.course, constants.env, running)
        for node in steps:
            inputs = [other for other in _inputs(node) if other in numbers]
            if not inputs:
                if not any(isinstance(self.values[other], int) for other in node.all_input_nodes):
                    constants.env[node] = constants.run_node(node)  # parameters may have changed
                continue
            if not isinstance(self.values[node], Tensor):
                reader.check_shape(node)
                continue
            parents = tuple(numbers[other] for other in inputs)
            for operator in reader.operators(node, inputs):
                shape = operator.shape if isinstance(operator, Reshape) else tuple(self.values[node].shape[1:])
                nodes.append(Node(operator, parents, shape, reader.place(node)))
                parents = (len(nodes) - 1,)
            numbers[node] = parents[0]
        (logits,) = output.args
        if logits not in numbers or len(self.values[logits].shape) != 2:
            raise InputError("bounds need a network whose output is one tensor of logits, [N, K]")
        return folded(nodes, numbers[logits])


def trace(network: nn.Module, shape: Shape) -> Traced:
    """Trace a network for images of ``shape`` = (C, H, W).

    Raises ``InputError`` where its course depends on its input, or it has an operator without bounds, naming where;
    and where the graph does not compute what the network does.
    """
    backbone = network.backbone if isinstance(network, Classifier) else network
    kind = type(backbone).__name__
    try:
        course = fx.GraphModule(backbone, fx.Tracer().trace(backbone))
    except Exception as problem:  # whatever a foreign forward does with a proxy
        raise InputError(f"bounds cannot follow {kind}: {problem}") from problem
    like = next(iter(network.parameters()), torch.zeros(0))
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    recorder = _Recorder(course)
    with torch.no_grad(), in_mode(network, training=False):
        try:
            recorder.run(network.normalised(image) if isinstance(network, Classifier) else image)
        except RuntimeError as problem:
            size = "x".join(map(str, shape))
            raise InputError(f"{kind} cannot be run on images of {size}: {str(problem).splitlines()[0]}") from problem
        traced = Traced(network, course, recorder.values)
        graph = traced.graph(running=True)
        layers = [Bounds(image, image)]
        for node in graph.nodes[1:]:
            layers.append(graph.forward(node, layers))
        wanted = network(image)
    scale = float(wanted.abs().max().nan_to_num(posinf=0.0))
    if not torch.allclose(layers[-1].centre, wanted.to(like), rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
        raise InputError(f"bounds cannot follow {kind}: its graph computes something else than the network does")
    return traced


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return the steps that one reads, as often as it reads them."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


class _Recorder(fx.Interpreter):
    def __init__(self, course: fx.GraphModule) -> None:
        super().__init__(course)
        self.values: dict[fx.Node, Any] = {}

    @override
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.clone() if isinstance(value, Tensor) else value  # before someone changes it in place
        return value


@dataclass(frozen=True)
class _Reader:
    """What each step of a course is, as operators applied one after another; none for the identity."""

    course: fx.GraphModule
    values: dict[fx.Node, Any]
    running: bool

    def operators(self, node: fx.Node, inputs: Sequence[fx.Node]) -> Sequence[Operator]:
        """Return what one step of the course does; ``inputs`` are the steps before it that depend on the image."""
        before = tuple(self.values[inputs[0]].shape[1:])
        after = tuple(self.values[node].shape[1:])
        if len(self.values[node]) != 2:
            self._refuse(node, "a step that mixes the batch")
        if self._in_place(node) and len(inputs[0].users) > 1:
            self._refuse(node, "a step in place on a value that others read")
        if node.op == "call_module":
            return self._module(self.course.get_submodule(str(node.target)), node, before, after)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        name = name.rstrip("_")
        if name in ("add", "iadd", "sub", "mul", "truediv", "div", "neg"):
            return self._arithmetic(name, node, inputs, after)
        if name in ("flatten", "view", "reshape", "squeeze"):
            return [Reshape(shape=after)]
        if name in ("contiguous", "to", "float"):
            return []
        if name not in _FUNCTIONS:
            self._refuse(node, name)
        given = self._given(node, *_FUNCTIONS[name])
        match name:
            case "relu":
                return [ReLU()]
            case "leaky_relu":
                return [self._leaky(given["negative_slope"], node)]
            case "dropout":
                return self._refuse(node, "dropout in train mode") if given["training"] else []
            case "cat" | "concat":
                return [Concatenate()] if given["dim"] == 1 else self._refuse(node, f"{name} along dim {given['dim']}")
            case "avg_pool2d":
                return self._average(before, node, **given)
            case "adaptive_avg_pool2d":
                return self._adaptive(before, after, node)
            case "max_pool2d":
                return self._largest(node, **given)
            case "pad":
                return self._padded(node, **given)
            case _:
                return self._mean(before, after, node, **given)

    def _given(self, node: fx.Node, *options: tuple[str, Any]) -> dict[str, Any]:
        """Return a function's options by name, defaults included; the first argument is the layer itself."""
        named = dict(options)
        if len(node.args) > 1 + len(options) or not set(node.kwargs) <= {*named, "inplace"}:
            self._refuse(node, f"{node.name} with these options")
        named |= {name: value for (name, _), value in zip(options, node.args[1:], strict=False)} | node.kwargs
        named.pop("inplace", None)
        return {k: self.values[v] if isinstance(v, fx.Node) else v for k, v in named.items()}

    def place(self, node: fx.Node) -> str:
        """Return where in the network a step stands, as its modules are named."""
        return str(node.target) if node.op == "call_module" else node.name

    def check_shape(self, node: fx.Node) -> None:
        """Refuse a step that makes several layers of one; a size, or a part of a shape, is no layer."""
        parts: list[Any] = []
        torch.utils._pytree.tree_map(parts.append, self.values[node])
        if any(isinstance(part, Tensor) for part in parts):
            self._refuse(node, f"{node.name}, which gives several tensors")

    def _in_place(self, node: fx.Node) -> bool:
        """Whether a step writes into what it reads."""
        if node.op == "call_module":
            return bool(getattr(self.course.get_submodule(str(node.target)), "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name.endswith("_") or name.startswith("i") or bool(node.kwargs.get("inplace"))

    def _leaky(self, slope: float, node: fx.Node) -> ReLU:
        if not 0 <= slope < 1:
            self._refuse(node, f"LeakyReLU with slope {slope:g}, which is not in [0, 1)")
        return ReLU(leak=slope)

    def _module(self, module: nn.Module, node: fx.Node, before: Shape, after: Shape) -> Sequence[Operator]:
        match module:
            case nn.Conv2d():
                return [self._conv(module, node)]
            case nn.Linear():
                if len(before) != 1:
                    self._refuse(node, "Linear on a map")
                bias = module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
                return [Linear(weight=module.weight, bias=bias)]
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return [self._batch_norm(module, node, len(before))]
            case nn.ReLU():
                return [ReLU()]
            case nn.LeakyReLU():
                return [self._leaky(module.negative_slope, node)]
            case nn.Flatten() | nn.Unflatten():
                return [Reshape(shape=after)]
            case nn.Dropout() | nn.Dropout2d() if module.training and not self.running:
                return self._refuse(node, "dropout in train mode")
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return []
            case nn.AvgPool2d():
                options = {name: getattr(module, name) for name, _ in _FUNCTIONS["avg_pool2d"]}
                return self._average(before, node, **options)
            case nn.AdaptiveAvgPool2d():
                return self._adaptive(before, after, node)
            case nn.MaxPool2d():
                return self._largest(node, **{name: getattr(module, name) for name, _ in _FUNCTIONS["max_pool2d"]})
            case nn.ZeroPad2d():
                return self._padded(node, pad=module.padding, mode="constant", value=0)
            case _:
                return self._refuse(node, type(module).__name__)

    def _conv(self, module: nn.Conv2d, node: fx.Node) -> Conv:
        if module.padding_mode != "zeros":
            self._refuse(node, f"Conv2d with {module.padding_mode} padding")
        padding: Any = module.padding
        if isinstance(padding, str):
            reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            if padding == "same" and any(r % 2 for r in reach):
                self._refuse(node, "Conv2d with one-sided padding")
            padding = tuple(r // 2 for r in reach) if padding == "same" else (0, 0)
        bias = module.weight.new_zeros(module.out_channels) if module.bias is None else module.bias
        return Conv(
            weight=module.weight,
            bias=bias[:, None, None],
            stride=_pair(module.stride),
            padding=_pair(padding),
            dilation=_pair(module.dilation),
            groups=module.groups,
        )

    def _batch_norm(self, module: nn.BatchNorm1d | nn.BatchNorm2d, node: fx.Node, dimensions: int) -> Scale:
        where = self.place(node)
        if module.running_mean is None or module.running_var is None:
            raise InputError(f"{where}: this BatchNorm has no running statistics, so its output depends on the batch")
        if module.training and not self.running:
            raise InputError(
                f"{where}: this BatchNorm is in train mode, so its output depends on the batch; use eval()"
            )
        factor = (module.running_var + module.eps).rsqrt()
        factor = factor if module.weight is None else factor * module.weight
        shift = -module.running_mean * factor
        shift = shift if module.bias is None else shift + module.bias
        shape = (-1, *(1,) * (dimensions - 1))
        return Scale(factor=factor.view(shape), shift=shift.view(shape))

    def _arithmetic(self, name: str, node: fx.Node, inputs: Sequence[fx.Node], after: Shape) -> Sequence[Operator]:
        """Sums of layers; and sums, differences, products and quotients with a constant."""
        if node.kwargs:
            self._refuse(node, f"{name} with options")
        if len(inputs) == len(node.args) == 2 and name in ("add", "iadd"):
            if any(tuple(self.values[other].shape[1:]) != after for other in inputs):
                self._refuse(node, "addition with broadcasting")
            return [Add()]
        if len(inputs) != 1 or len(node.args) > 2 or node.args.count(inputs[0]) != 1:
            self._refuse(node, f"{name} of two layers")
        like = self.values[inputs[0]]
        one, zero = torch.ones_like(like[0]), torch.zeros_like(like[0])
        if name == "neg":
            return [Scale(factor=-one, shift=zero)]
        first = node.args[0] is inputs[0]
        other = node.args[1] if first else node.args[0]
        value = self.values[other] if isinstance(other, fx.Node) else other
        constant = value.to(like) if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype).to(like)
        if constant.dim() == like.dim() and len(constant) == 1:
            constant = constant[0]
        if constant.dim() >= like.dim() or after != tuple(like.shape[1:]):
            self._refuse(node, f"{name} with broadcasting")
        constant = constant.expand(after)
        match name, first:
            case ("add" | "iadd", _):
                return [Scale(factor=one, shift=zero + constant)]
            case ("mul", _):
                return [Scale(factor=one * constant, shift=zero)]
            case ("sub", True):
                return [Scale(factor=one, shift=zero - constant)]
            case ("sub", False):
                return [Scale(factor=-one, shift=zero + constant)]
            case ("truediv" | "div", True):
                return [Scale(factor=one / constant, shift=zero)]
            case _:
                return self._refuse(node, f"{name} by a layer")

    def _average(
        self,
        before: Shape,
        node: fx.Node,
        *,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Sequence[Operator]:
        """Averaging is a convolution of each channel by itself."""
        kernel, margin = _pair(kernel_size), _pair(padding)
        if ceil_mode or divisor_override or (not count_include_pad and margin != (0, 0)):
            self._refuse(node, "average pooling with ceil_mode, divisor_override or count_include_pad=False")
        like = self.values[node]
        weight = like.new_full((before[0], 1, *kernel), 1 / (kernel[0] * kernel[1]))
        bias = like.new_zeros(before[0], 1, 1)
        return [Conv(weight=weight, bias=bias, stride=_pair(stride or kernel), padding=margin, groups=before[0])]

    def _adaptive(self, before: Shape, after: Shape, node: fx.Node) -> Sequence[Operator]:
        if before[1] % after[1] or before[2] % after[2]:
            self._refuse(node, f"adaptive pooling from {before[1]}x{before[2]} to {after[1]}x{after[2]}")
        return self._average(before, node, kernel_size=(before[1] // after[1], before[2] // after[2]))

    def _mean(self, before: Shape, after: Shape, node: fx.Node, *, dim: Any, keepdim: bool) -> Sequence[Operator]:
        dims = sorted(d % 4 for d in ((dim,) if isinstance(dim, int) else dim or ()))
        if len(before) != 3 or dims != [2, 3]:
            self._refuse(node, "a mean over other than the last two dimensions")
        if keepdim:
            return self._average(before, node, kernel_size=before[1:])
        like = self.values[node]
        area = before[1] * before[2]
        weight = torch.eye(before[0]).repeat_interleave(area, dim=1).to(like) / area
        return [Reshape(shape=(weight.shape[1],)), Linear(weight=weight, bias=like.new_zeros(after))]

    def _largest(
        self,
        node: fx.Node,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool,
        return_indices: bool,
    ) -> Sequence[Operator]:
        if ceil_mode or return_indices:
            self._refuse(node, "max pooling with ceil_mode or return_indices")
        kernel = _pair(kernel_size)
        step = _pair(stride or kernel)
        return [MaxPool(kernel=kernel, stride=step, padding=_pair(padding), dilation=_pair(dilation))]

    def _padded(self, node: fx.Node, *, pad: Any, mode: str, value: float | None) -> Sequence[Operator]:
        if mode != "constant" or value or len(pad) != 4 or min(pad) < 0:
            self._refuse(node, "padding other than with zeros around a map")
        return [Pad(margins=(pad[0], pad[1], pad[2], pad[3]))]

    def _refuse(self, node: fx.Node, what: str) -> NoReturn:
        raise InputError(f"{self.place(node)}: no bounds for {what}; supported are {SUPPORTED}")


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
