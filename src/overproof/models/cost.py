"""What one answer of a network costs: multiply-adds, counted and never typed."""

import torch
from torch import nn

from overproof.models.mode import in_mode
from overproof.signature import Signature


def multiply_adds(network: nn.Module, signature: Signature) -> int:
    """Return the multiply-adds of one forward pass on one image.

    Counts every matrix product and convolution that torch carries out, inside functions as inside layers, at one
    multiply-add per weight and position; additions of biases, normalisation and activations are left out, as is usual.
    The network's modes are given back, and its weights may lie on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    like = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, signature.channels, signature.height, signature.width, dtype=like.dtype, device=like.device)
    counter = FlopCounterMode(display=False)
    with in_mode(network, training=False), torch.no_grad(), counter:
        network(image)
    return counter.get_total_flops() // 2
