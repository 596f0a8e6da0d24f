"""What a network costs where it runs: bytes, multiply-adds of one image, and the time of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from overproof.environment import package

_WARM = 50  # passes before the clock counts: a first pass allocates
_PASSES = 500


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one image takes, in milliseconds: the median and the 99th percentile of so many passes."""

    median: float
    p99: float
    passes: int


def latency(run: Callable[[Tensor], Any], x: Tensor, passes: int = _PASSES) -> Latency:
    """Time ``run`` on the first of images ``x`` ``[N, C, H, W]``, again and again."""
    one, seconds = x[:1], []
    for number in range(_WARM + passes):
        started = perf_counter()
        run(one)
        if number >= _WARM:
            seconds.append(perf_counter() - started)
    times = torch.tensor(seconds, dtype=torch.float64) * 1000
    return Latency(median=float(times.quantile(0.5)), p99=float(times.quantile(0.99)), passes=passes)


def graph_multiply_adds(body: bytes, *, where: str) -> int | None:
    """Return the multiply-adds of an ONNX file for one image; None where shapes are not known before it runs."""
    onnx = package("onnx", extra="export", where=f"{where}: counting its multiply-adds")
    model = onnx.load_model_from_string(body)
    if len(model.graph.input) != 1:
        return None
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for part in model.graph.output:
        part.type.tensor_type.ClearField("shape")
    model.graph.ClearField("value_info")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {part.name: tuple(part.dims) for part in graph.initializer}
    for part in (*graph.input, *graph.value_info, *graph.output):
        shapes[part.name] = tuple(dim.dim_value for dim in part.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type in _INNER:
            weight, out = shapes.get(node.input[1], ()), shapes.get(node.output[0], ())
            if not weight or not out or 0 in (*weight, *out):
                return None
            total += prod(out) * _INNER[node.op_type](weight, _attributes(node))
    return total


def _attributes(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


_INNER: Mapping[str, Callable[[tuple[int, ...], Mapping[str, int]], int]] = {
    "Conv": lambda weight, _: prod(weight[1:]),
    "Gemm": lambda weight, options: weight[1] if options.get("transB") else weight[0],
    "MatMul": lambda weight, _: weight[-2],
}
"""How many products each output number of an operator is the sum of, by the shape of its weights."""
