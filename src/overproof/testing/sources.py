"""What holds for every data source."""

from collections.abc import Callable

import pytest
import torch

from overproof.building import build_value, plain
from overproof.data.images import ImageSet, check_held_out, hold_out
from overproof.data.sources import Source, Split
from overproof.trust import Code

_SPLITS: tuple[Split, ...] = ("train", "test")


class SourceContract:
    """Derive a class ``TestMine`` from it and set ``make``: your class, or a function that returns a source.

    The splits are read into memory.
    """

    make: Callable[[], Source]

    @pytest.fixture
    def source(self) -> Source:
        """Return the source that is tested."""
        return type(self).make()

    @pytest.mark.parametrize("split", _SPLITS)
    def test_a_split_is_images_with_labels_of_its_classes(self, source: Source, split: Split) -> None:
        """uint8 images ``[N, C, H, W]`` and int64 labels ``[N]``, each one of the named classes."""
        images = source.load(split)
        assert len(images) > 0 and len(images.labels) == len(images)
        assert images.images.dtype == torch.uint8 and images.images.dim() == 4
        assert images.labels.dtype == torch.int64
        assert int(images.labels.min()) >= 0 and int(images.labels.max()) < len(images.classes)
        assert len(set(images.classes)) == len(images.classes)

    def test_both_splits_are_of_one_task(self, source: Source) -> None:
        """Sizes, channels and classes, in their order, are those of the training split."""
        train, test = (source.load(split) for split in _SPLITS)
        assert train.signature == test.signature
        assert train.classes == test.classes

    def test_the_same_images_come_every_time(self, source: Source) -> None:
        """A run that is resumed learns from the same images, to the byte."""
        for split in _SPLITS:
            assert source.load(split).digest == source.load(split).digest

    def test_no_test_image_is_trained_on(self, source: Source) -> None:
        """No image of the test split is in the training split."""
        train, test = (source.load(split) for split in _SPLITS)
        shared = set(_prints(train)) & set(_prints(test))
        assert not shared

    def test_a_part_can_be_held_out(self, source: Source) -> None:
        """There are enough images of each class that a tenth of them can be held out."""
        train = source.load("train")
        kept, held = hold_out(train, 0.1, 0)
        check_held_out(train, kept)
        assert len(kept) + len(held) == len(train)
        assert set(kept.labels.tolist()) == set(train.labels.tolist())

    def test_a_recipe_rebuilds_it(self, source: Source) -> None:
        """What a recipe says of it is read back as an equal value."""
        assert build_value(Source, plain(source), code=Code(own=True)) == source
        assert isinstance(hash(source), int)


def _prints(images: ImageSet) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.images]
