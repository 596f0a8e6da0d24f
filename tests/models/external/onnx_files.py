"""Small ONNX files, put together operator by operator, in the forms in which other tools write them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def drawn(*shape, seed=0):
    """Return weights of about the size that a trained network's have."""
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def node(kind, *inputs, out, **options):
    return helper.make_node(kind, list(inputs), [out], name=f"{kind}_{out}", **options)


def chain(*steps, first="x"):
    """Return nodes one after the other from ``first`` to ``y``: each is a kind, further inputs and options."""
    nodes, before = [], first
    for number, (kind, inputs, options) in enumerate(steps):
        after = "y" if number == len(steps) - 1 else f"{first}{number}"
        nodes.append(node(kind, before, *inputs, out=after, **options))
        before = after
    return nodes


def file(
    nodes,
    weights,
    *,
    sizes=(1, 4, 4),
    batch="batch",
    classes=5,
    opset=18,
    kind=TensorProto.FLOAT,
    inputs=(),
    outputs=("y",),
):
    """Return the bytes of a network from ``x`` ``[batch, *sizes]`` to ``y``; ``weights`` are arrays by name."""
    takes = [helper.make_tensor_value_info(name, kind, [batch, *sizes]) for name in ("x", *inputs)]
    gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, classes]) for name in outputs]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "made", takes, gives, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return made.SerializeToString()


def head(features, classes=5):
    """Return the weights of a last layer ``Gemm(.., w, b)``."""
    return {"w": drawn(features, classes, seed=8), "b": drawn(classes, seed=9)}


LAST = [("Flatten", (), {}), ("Gemm", ("w", "b"), {})]
