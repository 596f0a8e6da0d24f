"""A look at both parts of a data set before training: everything that cannot be used is named at once."""

from dataclasses import replace

import numpy as np
import torch

from overproof.data.encoded import EncodedSet
from overproof.data.images import ImageSet, Labelled
from overproof.data.notes import counted
from overproof.data.places import MissingPartError
from overproof.data.sources import Source, Split
from overproof.errors import InputError


def surveyed(source: Source) -> ImageSet | EncodedSet:
    """Return the training part after every image of both parts was decoded once.

    Its notes say what was read and left out of either part, and how many images are in both. Raises ``InputError`` for
    whatever an evaluation would find in the test part after the training, and names damaged images of both parts. A
    data set without a test part can be trained on.
    """
    problems: list[InputError] = []

    def part(split: Split) -> ImageSet | EncodedSet | None:
        try:
            images = source.open(split)
            if not isinstance(images, ImageSet | EncodedSet):  # other people's sources may forget to return
                what = f"an object of type {type(images).__name__}"
                raise InputError(
                    f"data {source.kind!r}: open returned {what} for {split!r}; it must return an ImageSet"
                )
            return images.examined()
        except MissingPartError as problem:
            if split == "train":
                raise
            missing.append(f"there is no test part: {problem}")
        except InputError as problem:
            problems.append(problem)
        return None

    missing: list[str] = []
    train, test = part("train"), part("test")
    if problems:
        # What is wrong with a data set as a whole is wrong with both parts.
        raise InputError("; and ".join(dict.fromkeys(map(str, problems))))
    assert train is not None
    notes = [*train.notes, *missing, *_said_twice(train)]
    if test is not None:
        if test.signature != train.signature:
            raise InputError(f"{train.name}: training images are {train.signature}, test images {test.signature}")
        notes += [*(one for one in test.notes if one not in train.notes), *_in_both(train, test)]
    return replace(train, notes=tuple(notes))


def _in_both(train: Labelled, test: Labelled) -> tuple[str, ...]:
    """Return how many images of the test part are training images, pixel by pixel."""
    number = int(torch.isin(test.prints, train.prints).sum())
    if not number:
        return ()
    are = "is a training image" if number == 1 else "are training images"
    return (
        f"{train.name}: {counted(number, 'test image')} of {len(test):,} {are} as well, pixel by pixel: test figures "
        "are too high by what was learnt by heart",
    )


def _said_twice(images: Labelled) -> tuple[str, ...]:
    """Return how many training images are there more than once, and how many of them under several labels."""
    prints, labels = images.prints.numpy(), images.labels.cpu().numpy()
    places, inverse, counts = np.unique(prints, return_inverse=True, return_counts=True)[:3]
    again = len(prints) - len(places)
    if not again:
        return ()
    low, high = np.full(len(places), labels.max()), np.zeros(len(places), dtype=labels.dtype)
    np.minimum.at(low, inverse, labels)
    np.maximum.at(high, inverse, labels)
    several = int(counts[low != high].sum())
    under = f"; {counted(several, 'image')} among copies of different labels" if several else ""
    is_copy = "is a copy of another" if again == 1 else "are copies of others"
    return (f"{images.name}: {counted(again, 'training image')} of {len(prints):,} {is_copy}, pixel by pixel{under}",)
