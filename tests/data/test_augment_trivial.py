import pytest
import torch

from overproof.data.augment_trivial import LEVELS, OPERATIONS, trivially_augmented

STAY_ONLY_AT_ZERO = [name for name in OPERATIONS if name not in ("autocontrast", "equalise", "identity")]


def images(n=30, channels=3):
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, channels, 12, 10), dtype=torch.uint8, generator=draws).float() / 255


def at(name, n, strength):
    number = list(OPERATIONS).index(name)
    return torch.full((n,), number), torch.full((n,), float(strength))


def test_the_search_space_is_the_wide_one():
    assert len(OPERATIONS) == 14
    assert LEVELS == 31


@pytest.mark.parametrize("name", STAY_ONLY_AT_ZERO)
def test_strength_zero_changes_nothing_and_the_greatest_does(name):
    x = images()
    bytes_ = (trivially_augmented(x, *at(name, 30, 0)) * 255).round()
    assert torch.equal(bytes_, (x * 255).round())
    assert float((trivially_augmented(x, *at(name, 30, 1)) - x).abs().max()) > 0.1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("strength", [-1.0, 1.0])
def test_pixels_stay_pixels(name, strength, channels):
    x = images(channels=channels)
    found = trivially_augmented(x, *at(name, 30, strength))
    assert found.shape == x.shape
    # An interpolation is between pixels but for rounding.
    assert float(found.min()) >= -1e-6
    assert float(found.max()) <= 1 + 1e-6


def test_each_image_has_its_own_operation_and_strength():
    x = images(56)
    operation = torch.arange(56) % 14
    strength = torch.linspace(-1, 1, 56)
    whole = trivially_augmented(x, operation, strength)
    for row in range(56):
        alone = trivially_augmented(x[row : row + 1], operation[row : row + 1], strength[row : row + 1])
        assert torch.allclose(whole[row : row + 1], alone, atol=1e-6)


def test_the_images_that_are_given_stay():
    x = images()
    before = x.clone()
    trivially_augmented(x, torch.arange(30) % 14, torch.ones(30))
    assert torch.equal(x, before)
