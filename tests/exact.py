"""A context of float64, for what must not depend on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor


@contextmanager
def in_float64() -> Iterator[None]:
    """Let networks that are made, and images that are batched, be float64.

    Two ways of computing round differently, and what they round is enlarged by sign() and Adam. In float32 that depends
    on the CPU; in float64 it is far below any mistake.
    """

    def exact(images: Tensor) -> Tensor:
        return images.double().div_(255) if images.dtype == torch.uint8 else images.double()

    with pytest.MonkeyPatch.context() as patch:
        for module in ("images", "loader", "streaming"):
            patch.setattr(f"overproof.data.{module}.pixels", exact)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
