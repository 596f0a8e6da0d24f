"""What BatchNorm needs of a batch."""

import torch
from torch import nn

from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode


@torch.no_grad()
def least_batch(network: Classifier) -> int:
    """Return how many images a batch must have for a network to learn from it: 2 where a BatchNorm sees one value each.

    Of one image a BatchNorm in train mode sees the height times the width of its layer; where that is one value, there
    is no variance, and torch refuses.
    """
    sizes: list[int] = []

    def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        sizes.append(given[0].numel() // given[0].shape[1])

    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return 1
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    asked, place = network.signature, next(network.parameters())
    try:
        with in_mode(network, training=False):
            network(torch.zeros(1, asked.channels, asked.height, asked.width, device=place.device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 if 1 in sizes else 1
