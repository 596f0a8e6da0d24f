"""Every test of the contract can fail: for each there is a source with the fault that it is there for."""

import inspect
from dataclasses import dataclass, replace

import pytest
import torch

from overproof.data import ImageSet, Source
from overproof.testing import SourceContract


@dataclass(frozen=True, kw_only=True)
class Sound(Source):
    kind: str = "sound"

    def open(self, split):
        draws = torch.Generator().manual_seed(int(split == "test"))
        images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=draws)
        return self.changed(ImageSet("sound", images, torch.arange(40) % 2, ("a", "b")), split)

    def changed(self, images, split):
        return images


class NoImages(Sound):
    def changed(self, images, split):
        return images.at(torch.arange(0))


class OtherSize(Sound):
    def changed(self, images, split):
        return replace(images, images=images.images[:, :, :3]) if split == "test" else images


class OtherClasses(Sound):
    def changed(self, images, split):
        return replace(images, classes=("b", "a")) if split == "test" else images


class Draws(Sound):
    def changed(self, images, split):
        return images.at(torch.randperm(len(images)))


class Shares(Sound):
    def changed(self, images, split):
        return images if split == "train" else Sound().open("train").at(torch.arange(3))


class OneOfAClass(Sound):
    def changed(self, images, split):
        return replace(images, labels=torch.tensor([0] * 39 + [1]), classes=("a", "b")).at(torch.tensor([0, 39]))


@dataclass(frozen=True, kw_only=True)
class Changes(Sound):
    kind: str = "changes"

    def __eq__(self, other):
        return self is other

    __hash__ = Sound.__hash__


FAULTS = {
    "test_a_split_is_images_with_labels_of_its_classes": (NoImages,),
    "test_both_splits_are_of_one_task": (OtherSize, OtherClasses),
    "test_the_same_images_come_every_time": (Draws,),
    "test_no_test_image_is_trained_on": (Shares,),
    "test_a_part_can_be_held_out": (OneOfAClass,),
    "test_a_recipe_rebuilds_it": (Changes,),
}
TESTS = [name for name in vars(SourceContract) if name.startswith("test_")]


def tried(name, source):
    test = getattr(SourceContract, name)
    given = {"source": source, "split": "train"}
    test(SourceContract(), **{key: given[key] for key in list(inspect.signature(test).parameters)[1:]})


def test_every_test_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_a_sound_source_passes(name):
    tried(name, Sound())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_fault_is_found(name, fault):
    with pytest.raises((AssertionError, ValueError)):
        tried(name, fault())
