"""The operators of ONNX that a classifier is made of, each as steps of a torch network that bounds can follow."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overproof.models.external.onnx_writer import BATCH, GraphWriter, NodeOutput, Operation, Value

Pads = list[tuple[int, int]]
Rule = Callable[[GraphWriter, Operation], Value]

_TYPES = {1: torch.float32, 2: torch.uint8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16}
_TYPES[11] = torch.float64
_MOST_CONSTANT = 1 << 26  # numbers of a constant that is computed
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Exp": torch.exp,
    "Sqrt": torch.sqrt,
    "Erf": torch.erf,
    "Abs": torch.abs,
    "Neg": operator.neg,
}
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softplus", *_FUNCTIONS)


def translate(writer: GraphWriter, operation: Operation) -> Value:
    """Return the value of an operation on values met before; raise ``Unconverted`` where it has no form in torch."""
    kind = operation.kind
    if kind in _CONSTANT and not any(isinstance(each, NodeOutput) for each in operation.inputs):
        value = _CONSTANT[kind](operation)
        return operation.refuse("of more numbers than are computed") if value.numel() > _MOST_CONSTANT else value
    if kind in QUANTISED:
        operation.refuse("of a quantised network")
    if kind not in _RULES:
        operation.refuse("")
    return _RULES[kind](writer, operation)


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _activation(writer: GraphWriter, operation: Operation) -> NodeOutput:
    """An operator on each number alone: the layer lies as before."""
    x = operation.layer()
    match operation.kind:
        case "Relu":
            output = writer.module(x, nn.ReLU())
        case "LeakyRelu":
            output = writer.module(x, nn.LeakyReLU(operation.option("alpha", 0.01)))
        case "Elu":
            output = writer.module(x, nn.ELU(operation.option("alpha", 1.0)))
        case "Sigmoid":
            output = writer.module(x, nn.Sigmoid())
        case "Tanh":
            output = writer.module(x, nn.Tanh())
        case "Softplus":
            output = writer.module(x, nn.Softplus(threshold=inf))
        case _:
            output = writer.call(_FUNCTIONS[operation.kind], x)
    return replace(output, axes=x.axes, order=x.order)


def _clip(writer: GraphWriter, operation: Operation) -> NodeOutput:
    """``Clip`` to [a, b] is ``b - relu((b - a) - relu(x - a))``, which bounds can follow."""
    x = operation.layer()
    low, high = (_scalar(operation, name, number) for number, name in ((1, "min"), (2, "max")))
    if low is not None and high is not None and low > high:
        operation.refuse(f"to [{low:g}, {high:g}]")
    output = x
    if low is not None:
        output = writer.module(output if low == 0 else writer.call(operator.sub, output, low), nn.ReLU())
    if high is not None:
        reach = high - (low or 0.0)
        output = writer.call(operator.sub, high, writer.module(writer.call(operator.sub, reach, output), nn.ReLU()))
    elif low:
        output = writer.call(operator.add, output, low)
    return replace(output, axes=x.axes, order=x.order)


def _scalar(operation: Operation, name: str, number: int) -> float | None:
    value = operation.option(name)
    if value is None:
        given = operation.constant(number)
        value = None if given is None else float(given)
    return None if value is None or abs(value) > torch.finfo(torch.float32).max * 0.99 else float(value)


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}


def _arithmetic(writer: GraphWriter, operation: Operation) -> NodeOutput:
    function = _ARITHMETIC[operation.kind]
    if len(operation.inputs) != 2:
        operation.refuse("of other than two values")
    one, other = operation.inputs
    if isinstance(one, NodeOutput) and isinstance(other, NodeOutput):
        if one.axes == other.axes and one.order is None and other.order is None and one.shape == other.shape:
            return replace(writer.call(function, one, other), axes=one.axes)
        return writer.call(function, writer.plain(one), writer.plain(other))
    x = one if isinstance(one, NodeOutput) else other
    given = other if isinstance(one, NodeOutput) else one
    assert isinstance(x, NodeOutput) and isinstance(given, Tensor)  # of constants alone it is computed before
    constant = given.float() if given.dtype != torch.bool else operation.refuse("with truth values")
    if _broadcast(x.shape, constant.shape) != x.shape or constant.dim() > x.rank:
        x = writer.plain(x)
    elif constant.dim() == x.rank and len(constant) not in (1,):
        operation.refuse("with another constant for each image")
    else:
        constant = _lying(constant, x)
    if operation.kind == "Add" and operation.alone and (linear := _without_bias(writer, x, constant)) is not None:
        linear.bias = nn.Parameter(constant.expand(linear.out_features).clone())
        return x
    pair = (x, constant) if isinstance(one, NodeOutput) else (constant, x)
    return replace(writer.call(function, *pair), axes=x.axes, order=x.order)


def _broadcast(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


def _lying(constant: Tensor, x: NodeOutput) -> Tensor:
    """Return a constant that broadcasts to a value as it broadcasts to the node's output, without the batch."""
    if constant.dim() == 0:
        return constant
    if x.axes is not None:
        constant = constant.reshape(*(1,) * (x.rank - constant.dim()), *constant.shape)
        constant = constant.permute([x.axes.index(axis) for axis in range(x.rank)])
    if constant.dim() == x.rank:
        constant = constant[0]
    if x.order is None or constant.shape[-1:] != x.order.shape:
        return constant
    moved = torch.empty_like(constant)
    moved[..., x.order] = constant
    return moved


def _without_bias(writer: GraphWriter, x: NodeOutput, constant: Tensor) -> nn.Linear | None:
    """Return the linear layer that gives a value, where it has no bias and may be given this one."""
    if x.node.op != "call_module" or x.axes is not None or x.order is not None or constant.dim() > 1:
        return None
    module = writer.root.get_submodule(str(x.node.target))
    return module if isinstance(module, nn.Linear) and module.bias is None and x.rank == 2 else None


# --- linear layers ----------------------------------------------------------------------------------------------------


def _linear(writer: GraphWriter, x: NodeOutput, weight: Tensor, bias: Tensor | None) -> NodeOutput:
    """Return features times a weight ``[F, O]``; features in another order are met by the weight's rows."""
    if x.order is not None:
        moved = torch.empty_like(weight)
        moved[x.order] = weight
        x, weight = replace(x, order=None), moved
    layer = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.T.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return writer.module(x, layer)


def _matmul(writer: GraphWriter, operation: Operation) -> NodeOutput:
    one, other = operation.inputs
    if isinstance(one, NodeOutput) and isinstance(other, Tensor) and other.dim() == 2:
        return _linear(writer, one if one.rank == 2 and one.axes is None else writer.plain(one), other.float(), None)
    pair = [writer.plain(each) if isinstance(each, NodeOutput) else each for each in (one, other)]
    return writer.call(torch.matmul, *pair)


def _gemm(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, weight, shift = operation.layer(), operation.constant(1), operation.constant(2)
    if x.rank != 2 or x.axes is not None or weight is None or weight.dim() != 2 or operation.option("transA", 0):
        operation.refuse("of other than features times a weight")
    weight = (weight.T if operation.option("transB", 0) else weight) * operation.option("alpha", 1.0)
    if shift is not None:
        if prod(shift.shape[:-1]) != 1:
            operation.refuse("with another constant for each image")
        shift = (shift.flatten() * operation.option("beta", 1.0)).expand(weight.shape[1])
    return _linear(writer, x, weight.float(), shift)


def _conv(writer: GraphWriter, operation: Operation) -> NodeOutput:
    weight, bias = operation.constant(1), operation.constant(2)
    x = _map(writer, operation)
    assert weight is not None
    if weight.dim() != 4:
        operation.refuse("of other than maps")
    strides, dilations = _pair(operation, "strides"), _pair(operation, "dilations")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    pads = _pads(operation, x, kernel, strides, dilations)
    x, padding = _pad_map(writer, x, pads, 0.0)
    groups = int(operation.option("group", 1))
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        strides,
        padding,
        dilations,
        groups,
        bias=bias is not None,
        device="meta",
    )
    layer.weight = nn.Parameter(weight.float().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().clone())
    return writer.module(x, layer)


def _norm(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = writer.plain(operation.layer())
    values = [operation.constant(number) for number in (1, 2, 3, 4)]
    if operation.option("training_mode", 0) or x.rank not in (2, 4):
        operation.refuse("in train mode, or of other than features and maps")
    scale, shift, mean, variance = (each.float().clone() for each in values if each is not None)
    layer = (nn.BatchNorm2d if x.rank == 4 else nn.BatchNorm1d)(len(scale), eps=operation.option("epsilon", 1e-5))
    layer.weight, layer.bias = nn.Parameter(scale), nn.Parameter(shift)
    layer.running_mean, layer.running_var = mean, variance
    return writer.module(x, layer)


# --- pooling and padding ----------------------------------------------------------------------------------------------


def _map(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = writer.plain(operation.layer())
    return x if x.rank == 4 else operation.refuse("of other than maps")


def _pair(operation: Operation, name: str) -> tuple[int, int]:
    numbers = [int(each) for each in operation.option(name, (1, 1))]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else operation.refuse("of other than maps")


def _pads(
    operation: Operation, x: NodeOutput, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """Return the padding before and after, of height and of width."""
    auto = operation.option("auto_pad", b"NOTSET")
    auto = auto.decode(errors="replace") if isinstance(auto, bytes) else str(auto)
    if auto in ("NOTSET", "VALID"):
        given = operation.option("pads", (0, 0, 0, 0)) if auto == "NOTSET" else (0, 0, 0, 0)
        if len(given) != 4:
            operation.refuse("of other than maps")
        return [(int(given[0]), int(given[2])), (int(given[1]), int(given[3]))]
    pads: Pads = []
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
        pads.append((whole // 2, whole - whole // 2) if auto == "SAME_UPPER" else (whole - whole // 2, whole // 2))
    return pads


def _pad_map(writer: GraphWriter, x: NodeOutput, pads: Pads, value: float) -> tuple[NodeOutput, tuple[int, int]]:
    """Return a map with what of its padding is not the same on both sides, and the rest, which the layer adds."""
    (top, bottom), (left, right) = pads
    if top == bottom and left == right:
        return x, (top, left)
    return writer.call(F.pad, x, (left, right, top, bottom), "constant", value), (0, 0)


def _pool(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, kernel = _map(writer, operation), _pair(operation, "kernel_shape")
    strides, dilations = _pair(operation, "strides"), _pair(operation, "dilations")
    pads = _pads(operation, x, kernel, strides, dilations)
    largest, ceil = operation.kind == "MaxPool", bool(operation.option("ceil_mode", 0))
    sizes = zip(x.shape[2:], kernel, strides, dilations, pads, strict=True)
    if ceil and all(
        (size + before + after - d * (k - 1) - 1) % stride == 0 for size, k, stride, d, (before, after) in sizes
    ):
        ceil = False
    counted = bool(operation.option("count_include_pad", 0)) or not any(map(any, pads))
    if not largest and not counted and any(before != after for before, after in pads):
        operation.refuse("with padding on one side")
    if largest and any(2 * max(pair) > width for pair, width in zip(pads, kernel, strict=True)):
        x, padding = writer.call(F.pad, x, (*pads[1], *pads[0]), "constant", -inf), (0, 0)
    else:
        x, padding = _pad_map(writer, x, pads, -inf if largest else 0.0)
    if largest:
        return writer.module(x, nn.MaxPool2d(kernel, strides, padding, dilations, ceil_mode=ceil))
    if dilations != (1, 1):
        operation.refuse("with dilations")
    return writer.module(x, nn.AvgPool2d(kernel, strides, padding, ceil, counted))


def _global(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = _map(writer, operation)
    if operation.kind == "GlobalMaxPool":
        return writer.module(x, nn.MaxPool2d((x.shape[2], x.shape[3])))
    return writer.module(x, nn.AdaptiveAvgPool2d(1))


def _mean(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, axes = operation.layer(), operation.numbers("axes", 1)
    x = writer.plain(x) if x.order is not None else x
    if not axes or any(axis % x.rank == 0 for axis in axes):
        operation.refuse("over the batch")
    keep = bool(operation.option("keepdims", 1))
    lie = x.axes or tuple(range(x.rank))
    gone = sorted(lie[axis % x.rank] for axis in axes)
    means = writer.call(torch.mean, x, gone, keep)
    left = lie if keep else tuple(axis for axis in lie if axis not in gone)
    left = tuple(sorted(left).index(axis) for axis in left)
    return replace(means, axes=None if left == tuple(range(len(left))) else left)


def _pad(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, given = writer.plain(operation.layer()), operation.numbers("pads", 1)
    axes = operation.numbers("axes", 3) if "pads" not in operation.attributes else None
    axes = list(range(x.rank)) if axes is None else [axis % x.rank for axis in axes]
    mode = operation.option("mode", b"constant").decode(errors="replace")
    if given is None or len(given) != 2 * len(axes) or mode not in ("constant", "reflect", "edge"):
        operation.refuse(f"in mode {mode}")
    if "pads" in operation.attributes:
        value = float(operation.option("value", 0.0))
    else:
        filled = operation.constant(2)
        value = 0.0 if filled is None else float(filled)
    around = {axis: (given[place], given[place + len(axes)]) for place, axis in enumerate(axes)}
    if any(around.get(0, ())):
        operation.refuse("along the batch")
    first = min((axis for axis, pair in around.items() if any(pair)), default=x.rank)
    if first == x.rank:
        return x
    amounts = [size for axis in range(x.rank - 1, min(first, 2) - 1, -1) for size in around.get(axis, (0, 0))]
    if mode == "constant":
        return writer.call(F.pad, x, tuple(amounts), mode, value)
    return writer.call(F.pad, x, tuple(amounts), {"edge": "replicate"}.get(mode, mode))


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, target = operation.layer(), operation.numbers("shape", 1)
    if target is None:
        operation.refuse("without a shape")
    if not operation.option("allowzero", 0):
        target = [x.shape[place] if size == 0 and place < x.rank else size for place, size in enumerate(target)]
    return _with_batch(writer, operation, x, target)


def _with_batch(writer: GraphWriter, operation: Operation, x: NodeOutput, target: Sequence[int]) -> NodeOutput:
    """Return a layer in the shape ``target``, whose first dimension is the batch, as the file was made for it."""
    each, rest = prod(x.shape[1:]), list(target[1:])
    known = prod(size for size in rest if size != -1)
    if rest.count(-1) == 1 and target[0] in (1, BATCH) and known and each % known == 0:
        rest[rest.index(-1)] = each // known
    if not target or -1 in rest or prod(rest) != each:
        operation.refuse(f"to {list(target)}, which mixes the images of a batch,")
    return writer.shaped(x, rest)


def _flatten(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = operation.layer()
    axis = int(operation.option("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return _with_batch(writer, operation, x, [prod(x.shape[:axis]), prod(x.shape[axis:])])


def _squeeze(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, axes = operation.layer(), operation.numbers("axes", 1)
    if axes is None:
        axes = [axis for axis in range(1, x.rank) if x.shape[axis] == 1]
    gone = {axis % x.rank for axis in axes}
    if any(x.shape[axis] != 1 for axis in gone):
        operation.refuse("of the batch or of a dimension that is not 1")
    return writer.shaped(x, [size for axis, size in enumerate(x.shape) if axis and axis not in gone])


def _unsqueeze(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x, axes = operation.layer(), operation.numbers("axes", 1) or []
    rank = x.rank + len(axes)
    new = {axis % rank for axis in axes}
    if 0 in new:
        operation.refuse("before the batch")
    sizes = iter(x.shape)
    return writer.shaped(x, [1 if axis in new else next(sizes) for axis in range(rank)][1:])


def _transpose(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = operation.layer()
    order = [int(axis) for axis in operation.option("perm", range(x.rank)[::-1])]
    if sorted(order) != list(range(x.rank)) or order[0] != 0:
        operation.refuse("of the batch")
    x = writer.plain(x) if x.order is not None else x
    lie = x.axes or tuple(range(x.rank))
    axes = tuple(lie[axis] for axis in order)
    return replace(x, axes=None if axes == tuple(range(x.rank)) else axes)


def _concat(writer: GraphWriter, operation: Operation) -> NodeOutput:
    parts = [each for each in operation.inputs if isinstance(each, NodeOutput)]
    if len(parts) != len(operation.inputs):
        operation.refuse("of layers and constants")
    first = parts[0]
    axis = int(operation.option("axis", 1)) % first.rank
    if axis == 0:
        operation.refuse("along the batch")
    if any(each.axes != first.axes or each.order is not None for each in parts):
        parts = [writer.plain(each) for each in parts]
        return writer.call(torch.cat, parts, axis)
    return replace(writer.call(torch.cat, parts, first.axes[axis] if first.axes else axis), axes=first.axes)


def _softmax(writer: GraphWriter, operation: Operation) -> NodeOutput:
    x = writer.plain(operation.layer())
    axis = int(operation.option("axis", -1 if operation.opset >= 13 else 1)) % x.rank
    if axis != x.rank - 1 and operation.opset < 13:
        operation.refuse("over several dimensions")
    return writer.module(x, nn.Softmax(axis) if operation.kind == "Softmax" else nn.LogSoftmax(axis))


def _same(writer: GraphWriter, operation: Operation) -> NodeOutput:
    """What changes nothing in float32 and eval mode."""
    training = operation.constant(2) if operation.kind == "Dropout" else None
    if training is not None and bool(training):
        operation.refuse("in train mode")
    if operation.kind == "Cast" and operation.option("to") != 1:
        operation.refuse("to another type than float32")
    return operation.layer()


def _shape(writer: GraphWriter, operation: Operation) -> Tensor:
    """The shape is that for ``BATCH`` images; a reshape knows the batch by its number."""
    shape = operation.layer().shape
    return torch.tensor(shape[operation.option("start", 0) : operation.option("end", len(shape))])


# --- constants --------------------------------------------------------------------------------------------------------


def _tensors(operation: Operation) -> list[Tensor]:
    return [each for each in operation.inputs if isinstance(each, Tensor)]


def _constant(operation: Operation) -> Tensor:
    for name, kind in (
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        if name in operation.attributes:
            return torch.tensor(operation.attributes[name], dtype=kind)
    value = operation.option("value")
    return value if isinstance(value, Tensor) else operation.refuse("of another kind")


def _fill(operation: Operation) -> Tensor:
    (shape,) = _tensors(operation)
    sizes = shape.tolist()
    if prod(sizes) > _MOST_CONSTANT:
        operation.refuse("of more numbers than are computed")
    value = operation.option("value")
    return torch.zeros(sizes) if value is None else value.reshape(-1)[0].expand(sizes).clone()


def _compute(operation: Operation) -> Tensor:
    one, other = _tensors(operation)
    if prod(_broadcast(one.shape, other.shape)) > _MOST_CONSTANT:
        operation.refuse("of more numbers than are computed")
    if operation.kind == "Div" and not one.is_floating_point():
        return torch.div(one, other, rounding_mode="trunc")
    value: Tensor = _ARITHMETIC[operation.kind](one, other)
    return value


def _cast(operation: Operation) -> Tensor:
    kind = operation.option("to")
    return _tensors(operation)[0].to(_TYPES[kind] if kind in _TYPES else operation.refuse("to such a type"))


def _gather(operation: Operation) -> Tensor:
    values, places = _tensors(operation)
    axis = int(operation.option("axis", 0)) % max(values.dim(), 1)
    if values.numel() // max(values.shape[axis], 1) * places.numel() > _MOST_CONSTANT:
        operation.refuse("of more numbers than are computed")
    values_picked = values.index_select(axis, places.flatten() % values.shape[axis])
    return values_picked.reshape([*values.shape[:axis], *places.shape, *values.shape[axis + 1 :]])


def _slice(operation: Operation) -> Tensor:
    values = _tensors(operation)[0]
    starts, ends = operation.numbers("starts", 1) or [], operation.numbers("ends", 2) or []
    axes = operation.numbers("axes", 3) or list(range(len(starts)))
    steps = (None if "starts" in operation.attributes else operation.numbers("steps", 4)) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = torch.tensor(range(values.shape[axis])[start:end:step], dtype=torch.int64)
        values = values.index_select(axis, places)
    return values


def _lay_out(operation: Operation) -> Tensor:
    """Constants in another shape."""
    values = _tensors(operation)[0]
    match operation.kind:
        case "Reshape":
            target = operation.numbers("shape", 1) or []
            return values.reshape([values.shape[i] if size == 0 else size for i, size in enumerate(target)])
        case "Transpose":
            return values.permute([int(axis) for axis in operation.option("perm", range(values.dim())[::-1])])
        case "Unsqueeze":
            axes = operation.numbers("axes", 1) or []
            rank = values.dim() + len(axes)
            for axis in sorted(axis % rank for axis in axes):
                values = values.unsqueeze(axis)
            return values
        case _:
            given = operation.numbers("axes", 1)
            gone = [i for i, n in enumerate(values.shape) if n == 1] if given is None else given
            return values.squeeze([axis % values.dim() for axis in gone])


_CONSTANT: Mapping[str, Callable[[Operation], Tensor]] = {
    "Constant": _constant,
    "ConstantOfShape": _fill,
    "Cast": _cast,
    "Concat": lambda operation: torch.cat(_tensors(operation), int(operation.option("axis", 0))),
    "Gather": _gather,
    "Identity": lambda operation: _tensors(operation)[0],
    "Neg": lambda operation: -_tensors(operation)[0],
    "Slice": _slice,
    **dict.fromkeys(_ARITHMETIC, _compute),
    **dict.fromkeys(("Reshape", "Transpose", "Unsqueeze", "Squeeze"), _lay_out),
}

_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global),
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _same),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "BatchNormalization": _norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Shape": _shape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
