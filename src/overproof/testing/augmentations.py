"""What holds for every augmentation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from overproof.building import build_value, plain
from overproof.data.augment import Augment
from overproof.trust import Code


class AugmentContract:
    """Derive a class ``TestMine`` from it and set ``make``: your class, or a function that returns an augmentation."""

    make: Callable[[], Augment]

    @pytest.fixture
    def augment(self) -> Augment:
        """Return the augmentation that is tested."""
        return type(self).make()

    @pytest.fixture(params=[1, 3], ids=["grey", "colour"])
    def images(self, request: pytest.FixtureRequest) -> Tensor:
        """Return twelve uint8 images, of one channel and of three."""
        size = (12, request.param, 9, 8)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    def test_images_stay_images(self, augment: Augment, images: Tensor) -> None:
        """Shape and type stay, what is given is not written into, and floats stay in [0, 1]."""
        before = images.clone()
        out = augment(images, make_generator())
        assert out.shape == images.shape and out.dtype == torch.uint8
        assert torch.equal(images, before)
        pixels = augment(images / 255, make_generator())
        assert pixels.dtype == torch.float32 and pixels.isfinite().all()
        assert (pixels >= 0).all() and (pixels <= 1).all()

    def test_the_generator_decides(self, augment: Augment, images: Tensor) -> None:
        """The same draws give the same images, and torch's global generator takes no part."""
        torch.manual_seed(1)
        first = augment(images, make_generator())
        torch.manual_seed(2)
        assert torch.equal(augment(images, make_generator()), first)

    def test_it_says_whether_it_draws(self, augment: Augment, images: Tensor) -> None:
        """``varies`` and ``draws`` are right: other draws give other images, or the same ones to every draw."""
        same = torch.equal(augment(images, make_generator(0)), augment(images, make_generator(1)))
        assert same is not augment.varies
        assert (augment.draws == 1) == (not augment.varies) or augment.bank == 1

    def test_an_image_depends_on_its_own_draws_alone(self, augment: Augment, images: Tensor) -> None:
        """Processes that share a batch augment their own rows; a bank of draws is shown in any order."""
        draws = augment.draw(len(images), (9, 8), make_generator())
        assert draws.shape[0] == len(images) and draws.dtype == torch.int64
        whole, order = augment.apply(images, draws), torch.randperm(len(images))
        assert torch.equal(augment.apply(images[order], draws[order]), whole[order])
        assert torch.equal(augment.apply(images[:1], draws[:1]), whole[:1])

    def test_a_recipe_rebuilds_it(self, augment: Augment) -> None:
        """What a recipe says of it is read back as an equal value."""
        assert build_value(Augment, plain(augment), code=Code(own=True)) == augment
        assert isinstance(hash(augment), int)


def make_generator(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed."""
    return torch.Generator().manual_seed(seed)
