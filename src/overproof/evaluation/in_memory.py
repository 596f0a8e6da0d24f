"""A network and images that somebody holds in memory, as an evaluation takes them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.labelled import AskedNetwork, check_images, check_label_tensor
from overproof.attacks.objectives import Logits
from overproof.data.images import ImageSet
from overproof.errors import InputError
from overproof.models.asking import check_weights_exist, try_batches
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.models.precision import tensor_float
from overproof.signature import Signature


def device_of(model: object, x: Tensor) -> torch.device:
    """Return where a network is, or where the images are if it has no weights."""
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((weight.device for weight in weights), x.device)


def given_images(x: Tensor, y: Tensor, classes: int, device: torch.device, *, name: str = "the images") -> ImageSet:
    """Return images ``[N, C, H, W]`` (uint8, or any floating point in [0, 1]) and their labels ``[N]`` as a set.

    The classes are called by their numbers. Raises ``InputError``.
    """
    pixels = x.detach()
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().clamp(0, 1)
    names = tuple(str(number) for number in range(classes))
    # Copies, which no inference mode holds and nobody changes meanwhile.
    return ImageSet(
        name, pixels.to(device, copy=True).contiguous(), y.detach().to(device, torch.int64, copy=True), names
    )


def check_given(x: Tensor, y: Tensor, *, least: int = 1) -> None:
    """Raise ``InputError`` unless these are images ``[N, C, H, W]``, uint8 or in [0, 1], with a label each."""
    if not (isinstance(x, Tensor) and x.dtype == torch.uint8 and x.dim() == 4):
        check_images(x, least_dimensions=4)
    check_label_tensor(y, x)
    if len(x) < least or not x.numel():
        raise InputError(f"there are no images to evaluate the model on, the batch is {list(x.shape)}")


def given_classifier(model: Logits, x: Tensor) -> Classifier:
    """Return a network on its device as a ``Classifier`` for the images ``x``; one of ours is returned as it is.

    It is asked as its user asks it (see ``AskedNetwork``). Raises ``InputError`` for what is no network, and for one
    that cannot be asked or gives no logits.
    """
    if isinstance(model, Classifier):
        channels, height, width = x.shape[1:]
        of = model.signature
        if (channels, height, width) != (of.channels, of.height, of.width):
            raise InputError(f"the model is for {of}, the images are {channels}x{height}x{width}")
        return model
    device = device_of(model, x)
    like = (x[:1].float().div(255) if x.dtype == torch.uint8 else x[:1].detach()).to(device)
    name = type(model).__name__
    if isinstance(model, nn.Module):
        check_weights_exist(model, where=name)
    network = AskedNetwork(model, like, gradients=False)
    with in_mode(network, training=False):
        classes = try_batches(network, like[0].float().clamp(0, 1), where=name).shape[1]
    return Classifier(network, signature_of(x, classes))


def signature_of(x: Tensor, classes: int) -> Signature:
    """Return what images ``[N, C, H, W]`` of so many classes ask of a network."""
    channels, height, width = x.shape[1:]
    return Signature(channels=channels, height=height, width=width, classes=classes)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluate a network in eval mode and in full float32; modes and the global generators are given back."""
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        in_mode(model, training=False),
        tensor_float(False),
    ):
        yield


def in_float64(model: nn.Module) -> bool:
    """Tell whether a network has weights of float64, so that it is bounded in float64."""
    return any(weight.dtype == torch.float64 for weight in model.parameters())


class InFloat64(nn.Module):
    """A network of float64 as one that takes and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        logits: Tensor = self.network(x.double())
        return logits.to(torch.float32)
