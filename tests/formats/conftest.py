"""A small convolutional network as ONNX bytes, made once."""

import pytest
import torch

from overproof.formats.onnx import to_onnx
from overproof.models.architectures.convnet import ConvNet
from overproof.models.weights import build
from overproof.signature import Signature

SIGNATURE = Signature(channels=1, height=8, width=8, classes=5)


@pytest.fixture(scope="session")
def small():
    """Return a network with normalisation, in eval mode; not to be changed."""
    torch.manual_seed(3)
    return build(ConvNet(channels=(4,), hidden=(8,)), SIGNATURE, mean=(0.4,), std=(0.2,)).eval()


@pytest.fixture(scope="session")
def small_pixels():
    return torch.rand(128, 1, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="session")
def small_body(small, small_pixels):
    return to_onnx(small, small_pixels, metadata={"about": "a test"}, where="small")
