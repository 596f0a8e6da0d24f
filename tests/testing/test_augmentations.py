"""Every test of the contract can fail: for each there is an augmentation with the fault that it is there for."""

import inspect
from dataclasses import dataclass

import pytest
import torch

from overproof.data import Augment
from overproof.testing import AugmentContract
from overproof.testing.augmentations import make_generator


@dataclass(frozen=True, kw_only=True)
class Sound(Augment):
    kind: str = "sound"
    crop: int = 2
    by: int = 2

    def apply(self, images, draws):
        return (super().apply(images, draws) / self.by).to(images.dtype)


class Grows(Sound):
    def apply(self, images, draws):
        return (super().apply(images, draws) * 3.0).to(images.dtype)


class Writes(Sound):
    def apply(self, images, draws):
        return images.fill_(0)


class DrawsElsewhere(Sound):
    def apply(self, images, draws):
        moved = super().apply(images, draws)
        return torch.where(torch.rand(len(images))[:, None, None, None] < 0.5, moved, moved.flip(3))


class SaysNothing(Sound):
    varies = False


class SeesOthers(Sound):
    def apply(self, images, draws):
        return super().apply(images, draws.flip(0))


@dataclass(frozen=True, kw_only=True)
class Changes(Sound):
    kind: str = "changes"

    def __eq__(self, other):
        return self is other

    __hash__ = Sound.__hash__


FAULTS = {
    "test_images_stay_images": (Grows, Writes),
    "test_the_generator_decides": (DrawsElsewhere,),
    "test_it_says_whether_it_draws": (SaysNothing,),
    "test_an_image_depends_on_its_own_draws_alone": (SeesOthers,),
    "test_a_recipe_rebuilds_it": (Changes,),
}
TESTS = [name for name in vars(AugmentContract) if name.startswith("test_")]


def tried(name, augment):
    test = getattr(AugmentContract, name)
    images = torch.randint(0, 256, (12, 3, 9, 8), dtype=torch.uint8, generator=make_generator(1))
    given = {"augment": augment, "images": images}
    test(AugmentContract(), **{key: given[key] for key in list(inspect.signature(test).parameters)[1:]})


def test_every_test_has_a_fault_that_it_finds():
    assert set(FAULTS) == set(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_a_sound_augmentation_passes(name):
    tried(name, Sound())


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_fault_is_found(name, fault):
    with pytest.raises(AssertionError):
        tried(name, fault())
