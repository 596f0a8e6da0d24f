"""How a network's weights and images lie in memory: channels-last, unless torch crashes in it."""

import torch
from torch import nn

_NARROW = 8  # channels of a block of oneDNN


def memory_format(*networks: nn.Module) -> torch.memory_format:
    """Return how images and weights are best laid out: channels-last, in which convolutions are faster.

    The plain layout where a network has a strided 1x1 convolution that reads fewer than eight channels, on a CPU: its
    backward pass writes beyond its memory in channels-last, and the process crashes (torch 2.13, oneDNN).
    """
    crashes = any(_crashes(module) for network in networks for module in network.modules())
    return torch.contiguous_format if crashes else torch.channels_last


def _crashes(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.weight.device.type != "cpu":
        return False
    narrow = module.in_channels // module.groups < _NARROW
    return narrow and module.kernel_size == (1, 1) and max(module.stride) > 1


def lay_out(layout: torch.memory_format, *networks: nn.Module) -> None:
    """Lay convolution weights out channels-last where that is the layout, in place; shards stay as they are."""
    for network in networks if layout == torch.channels_last else ():
        if not any(hasattr(value, "device_mesh") for value in network.parameters()):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
