"""Each operator against onnxruntime, alone on small images, and whether bounds follow it."""

import numpy as np
import pytest
from tests.models.external.onnx_files import LAST, chain, drawn, file, head, node
from tests.models.external.test_onnx_network import agrees, full, has_bounds

MAP = [("Conv", ("k", "c"), {"pads": [1, 1, 1, 1]})]  # [N, 3, 4, 4], with values of both signs
KERNEL = {"k": drawn(3, 1, 3, 3), "c": drawn(3, seed=1)}
CHANNELS = {"f": drawn(3, 1, 1, seed=2) + 1, "one": np.float32(0.7), "whole": drawn(1, 3, 4, 4, seed=3) + 2}
NORM = {"scale": drawn(3) + 1, "shift": drawn(3, seed=5), "mean": drawn(3, seed=6), "var": drawn(3, seed=7) ** 2 + 0.5}
BOUNDED = {
    "relu": ([("Relu", (), {})], 48),
    "leaky relu": ([("LeakyRelu", (), {"alpha": 0.2})], 48),
    "clip below": ([("Clip", ("low",), {})], 48),
    "clip above": ([("Clip", ("", "high"), {})], 48),
    "clip both": ([("Clip", ("low", "high"), {})], 48),
    "relu6": ([("Clip", ("zero", "high"), {})], 48),
    "add": ([("Add", ("f",), {})], 48),
    "sub": ([("Sub", ("whole",), {})], 48),
    "mul": ([("Mul", ("f",), {})], 48),
    "div": ([("Div", ("one",), {})], 48),
    "neg": ([("Neg", (), {})], 48),
    "batch norm": ([("BatchNormalization", ("scale", "shift", "mean", "var"), {})], 48),
    "max pool": ([("MaxPool", (), {"kernel_shape": [2, 2], "strides": [2, 2]})], 12),
    "padded max pool": ([("MaxPool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], 48),
    "ceil without need": ([("MaxPool", (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})], 12),
    "average pool": ([("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2]})], 12),
    "padded average": (
        [("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1})],
        48,
    ),
    "global average": ([("GlobalAveragePool", (), {})], 3),
    "global max": ([("GlobalMaxPool", (), {})], 3),
    "mean": ([("ReduceMean", ("sides",), {"keepdims": 0})], 3),
    "kept mean": ([("ReduceMean", ("sides",), {"keepdims": 1})], 3),
    "pad": ([("Pad", ("around",), {})], 108),
    "one-sided convolution": ([("Conv", ("k3",), {"pads": [0, 0, 1, 1]})], 48),
    "grouped": ([("Conv", ("kg",), {"group": 3})], 12),
    "same lower": ([("Conv", ("k2",), {"auto_pad": "SAME_LOWER"})], 48),
    "dilated": ([("Conv", ("k2",), {"dilations": [2, 2]})], 12),
    "identity, dropout, cast": ([("Identity", (), {}), ("Dropout", (), {}), ("Cast", (), {"to": 1})], 48),
    "squeeze": ([("GlobalAveragePool", (), {}), ("Squeeze", ("sides",), {})], 3),
    "reshapes": ([("Reshape", ("rows",), {}), ("Reshape", ("maps",), {}), ("Relu", (), {})], 48),
    "unsqueeze": ([("Flatten", (), {}), ("Unsqueeze", ("sides",), {}), ("Flatten", (), {})], 48),
    "transposed twice": ([("Transpose", (), {"perm": [0, 2, 3, 1]}), ("Transpose", (), {"perm": [0, 3, 1, 2]})], 48),
    "flat in another order": ([("Transpose", (), {"perm": [0, 3, 1, 2]}), ("Relu", (), {})], 48),
    "mean of transposed": ([("Transpose", (), {"perm": [0, 2, 3, 1]}), ("ReduceMean", ("front",), {"keepdims": 0})], 3),
    "sigmoid": ([("Sigmoid", (), {})], 48),
    "tanh": ([("Tanh", (), {})], 48),
    "elu": ([("Elu", (), {"alpha": 0.5})], 48),
    "softplus": ([("Softplus", (), {})], 48),
    "exp": ([("Exp", (), {})], 48),
    "abs, sqrt": ([("Abs", (), {}), ("Sqrt", (), {})], 48),
    "erf": ([("Erf", (), {})], 48),
    "reflected": ([("Pad", ("around",), {"mode": "reflect"})], 108),
    "repeated": ([("Pad", ("around",), {"mode": "edge"})], 108),
    "filled": ([("Pad", ("around", "one"), {})], 108),
    "channels filled": ([("Pad", ("deep",), {})], 64),
    "ceil": ([("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})], 12),
    "average without its padding": ([("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], 48),
    "mean of channels": ([("ReduceMean", ("second",), {"keepdims": 1})], 16),
    "softmax": ([("Softmax", (), {"axis": -1})], 48),
    "matmul of a map": ([("MatMul", ("square",), {})], 48),
    "constant minus": ([("Transpose", (), {"perm": [0, 2, 1, 3]}), ("MatMul", ("square",), {})], 48),
    "one-sided max pool": ([("MaxPool", (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]})], 48),
    "log softmax of channels": ([("LogSoftmax", (), {"axis": 1})], 48),
}
MORE = {
    "low": np.float32(-0.2),
    "high": np.float32(0.3),
    "zero": np.float32(0),
    "sides": np.array([2, 3]),
    "front": np.array([1, 2]),
    "second": np.array([1]),
    "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "deep": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    "rows": np.array([-1, 6, 8]),
    "maps": np.array([0, 3, 4, 4]),
    "k3": drawn(3, 3, 2, 2, seed=4),
    "k2": drawn(3, 3, 2, 2, seed=4),
    "kg": drawn(3, 1, 3, 3, seed=4),
    "square": drawn(4, 4, seed=4),
}


def made(steps, features):
    nodes = chain(*MAP, *steps, *LAST)
    named = {name for each in nodes for name in each.input}
    weights = KERNEL | CHANNELS | NORM | MORE | head(features)
    return full(file(nodes, {name: value for name, value in weights.items() if name in named}))


@pytest.mark.parametrize("name", BOUNDED)
def test_operators_that_bounds_follow(name):
    has_bounds(agrees(made(*BOUNDED[name])))


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
def test_two_layers(kind):
    """Also of a layer that lies transposed, and of one that does not."""
    nodes = [
        *chain(*MAP, ("Exp", (), {}))[:1],
        node("Exp", "x0", out="e"),
        node(kind, "x0", "e", out="a"),
        node("Transpose", "a", out="t", perm=[0, 1, 3, 2]),
        node(kind, "t", "e", out="d"),
        *chain(*LAST, first="d"),
    ]
    has_bounds(agrees(full(file(nodes, KERNEL | head(48)))))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layers_one_after_another(axis):
    nodes = [
        *chain(*MAP, ("Relu", (), {}))[:1],
        node("Relu", "x0", out="r"),
        node("Concat", "x0", "r", out="d", axis=axis),
    ]
    has_bounds(agrees(full(file([*nodes, *chain(*LAST, first="d")], KERNEL | head(96)))))


@pytest.mark.parametrize("options", [{"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {}])
def test_a_gemm_with_its_options(options):
    weights = head(16)
    weights = weights | {"w": weights["w"].T.copy()} if options.get("transB") else weights
    has_bounds(agrees(full(file(chain(("Flatten", (), {}), ("Gemm", ("w", "b"), options)), weights))))


def test_a_bias_is_part_of_its_layer_only_where_nothing_else_reads_the_product():
    nodes = [
        node("Flatten", "x", out="f"),
        node("MatMul", "f", "w", out="z"),
        node("Add", "z", "b", out="a"),
        node("Add", "a", "z", out="y"),
    ]
    has_bounds(agrees(full(file(nodes, head(16)))))


def test_constants_are_computed():
    """A weight that is made of others, as quantisation-aware and pruned networks have them."""
    nodes = [
        node("Mul", "w", "mask", out="m"),
        node("Transpose", "m", out="t", perm=[1, 0]),
        node("Slice", "t", "from", "to", "axes", out="s"),
        node("Concat", "s", "rest", out="whole", axis=0),
        node("Transpose", "whole", out="back", perm=[1, 0]),
        node("Flatten", "x", out="f"),
        node("Gemm", "f", "back", "b", out="y"),
    ]
    more = {"mask": (drawn(16, 5) > 0).astype(np.float32), "from": np.array([1]), "to": np.array([5])}
    more |= {"axes": np.array([0]), "rest": drawn(1, 16)}
    has_bounds(agrees(full(file(nodes, head(16) | more))))
