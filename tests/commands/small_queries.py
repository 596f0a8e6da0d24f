"""A network of two numbers that is the identity, and VNN-LIB queries about networks of few numbers."""

import numpy as np
from tests.models.external.onnx_files import chain, file

from overproof.formats.vnnlib import decimal

BOX = [(-2.0, 3.0), (1.0, 4.0)]
IDENTITY = {"w": np.eye(2, dtype=np.float32), "b": np.zeros(2, dtype=np.float32)}


NET = file(chain(("Gemm", ("w", "b"), {})), IDENTITY, sizes=(2,), classes=2)


def query(asserts, box=BOX, outputs=2):
    """Return a 1.0 query over a box."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(box))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(box):
        lines += [f"(assert (>= X_{i} {decimal(low)}))", f"(assert (<= X_{i} {decimal(high)}))"]
    return "\n".join([*lines, asserts])
