"""Which mean and deviation a student subtracts and divides by: a recipe's numbers, the data's, or its beginning's."""

from dataclasses import dataclass

import torch

from overproof.data.images import ImageSet
from overproof.data.streaming import Stream
from overproof.errors import InputError
from overproof.recipe import Normalise
from overproof.runs.initial import InitialWeights

_AT_ONCE = 256  # images


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels in [0, 1]; empty where nothing is normalised."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        mean, std = ("/".join(f"{value:.4f}" for value in part) for part in (self.mean, self.std))
        return f"mean {mean}, deviation {std}"


def normalisation(
    wish: Normalise, images: ImageSet | Stream, word: str, weights: InitialWeights | None
) -> Normalisation:
    """Return what a recipe's ``normalise`` means for these training images and weights to begin with.

    Without weights, which a run that goes on does not read again, those of ``init`` are only held the place of: the
    checkpoint has them. Raises ``InputError`` where they are not known, or not for images of so many channels.
    """
    if wish.of == "numbers":
        return Normalisation(mean=wish.mean, std=wish.std)
    if wish.of == "data":
        return measure_normalisation(images)
    channels = images.signature.channels
    if weights is None:
        return Normalisation(mean=(0.0,) * channels, std=(1.0,) * channels)
    if not weights.mean:
        raise InputError(f"normalise: init: {word} does not say how its images were normalised; use data or numbers")
    if len(weights.mean) != channels:
        raise InputError(
            f"normalise: init: {word} has a mean of {len(weights.mean)} channels, the images have {channels}; use data "
            "or numbers"
        )
    return Normalisation(mean=weights.mean, std=weights.std)


def measure_normalisation(images: ImageSet | Stream) -> Normalisation:
    """Return mean and deviation of all pixels of each channel; of uint8 they are the same to the bit on any device.

    Raises ``InputError`` for a channel of one value.
    """
    channels = images.signature.channels
    dtype = torch.int64
    sums = torch.zeros(2, channels, dtype=torch.float64)
    pixels = 0
    for part in images.gather(torch.split(torch.arange(len(images)), _AT_ONCE)):
        dtype = torch.int64 if part.dtype == torch.uint8 else torch.float64
        values = part.to(dtype).transpose(0, 1).flatten(1)
        sums += torch.stack([values.sum(dim=1), (values * values).sum(dim=1)]).double().cpu()
        pixels += values.shape[1]
    scale = 255.0 if dtype == torch.int64 else 1.0
    mean = sums[0] / pixels
    variance = (sums[1] / pixels - mean * mean) / scale**2
    for channel, value in enumerate(variance.tolist()):
        if value <= 1e-12:
            raise InputError(
                f"normalise: data: channel {channel} of the training images has one value only; use numbers"
            )
    return Normalisation(mean=tuple((mean / scale).tolist()), std=tuple(variance.sqrt().tolist()))
