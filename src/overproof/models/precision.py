"""Which arithmetic a device is good at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
_WIDE = 64  # channels from which a convolution is bound by arithmetic and not by dispatch, measured on AVX-512


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively; emulated bf16 is slower than fp32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False


def choose_precision(wish: Literal["auto", "fp32", "bf16"], device: torch.device, network: nn.Module) -> Precision:
    """Return what ``auto`` means here: bf16 where it is native and the network is wide enough to gain, else fp32.

    On CPUs depthwise convolutions gain nothing from bf16; fused for a search, MobileNetV2 is faster in fp32.
    """
    if wish != "auto":
        return wish
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    wide = max((one.out_channels for one in convolutions), default=0) >= _WIDE
    depthwise = any(one.groups == one.in_channels > 1 for one in convolutions)
    slow = device.type == "cpu" and depthwise
    return "bf16" if computes_bf16(device) and wide and not slow else "fp32"


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Let GPUs round the factors of fp32 products to TF32's 10 bits, or forbid it; as before, afterwards.

    torch's own settings forbid it for matrices and allow it for convolutions, so neither is what a user expects.
    """
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before
