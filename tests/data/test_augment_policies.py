import math

import pytest
import torch

from overproof.data.augment_colours import brightened, contrasted, saturated, sharpened, stretched
from overproof.data.augment_geometry import moved, sheared, turned
from overproof.data.augment_policies import (
    CIFAR10,
    COLOUR_SHAPES,
    NAMES,
    OPERATIONS,
    RAND_OPERATIONS,
    by_policy,
    changed,
    colour_shaped,
)

KEPT_AT_ZERO = [name for name in NAMES if name not in ("autocontrast", "equalise", "invert")]


def images(n=12, channels=3):
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, channels, 12, 10), dtype=torch.uint8, generator=draws).float() / 255


def at(name, n, strength):
    return torch.full((n,), NAMES.index(name)), torch.full((n,), float(strength))


@pytest.mark.parametrize("name", KEPT_AT_ZERO)
def test_strength_zero_changes_nothing_and_the_greatest_does(name):
    x = images()
    torch.testing.assert_close(changed(x, *at(name, 12, 0)), x, atol=1e-5, rtol=0)
    if name != "identity":
        # The least of them is posterise's, whose last four bits are up to 15/255.
        assert float((changed(x, *at(name, 12, 1)) - x).abs().max()) > 0.05


@pytest.mark.parametrize(
    ("name", "strength", "by_hand"),
    [
        ("shear_x", 0.5, lambda x, v: sheared(x, v(0.15), v(0.0))),
        ("shear_y", -1.0, lambda x, v: sheared(x, v(0.0), v(-0.3))),
        ("translate_x", 1.0, lambda x, v: moved(x, v(150 / 331), v(0.0))),
        ("translate_y", 1.0, lambda x, v: moved(x, v(0.0), v(150 / 331))),
        ("rotate", 1 / 3, lambda x, v: turned(x, v(10.0))),
        ("brightness", -1.0, lambda x, v: brightened(x, v(0.1))),
        ("colour", 1.0, lambda x, v: saturated(x, v(1.9))),
        ("contrast", 0.5, lambda x, v: contrasted(x, v(1.45))),
        ("sharpness", 1.0, lambda x, v: sharpened(x, v(1.9))),
        ("invert", 0.3, lambda x, v: 1 - x),
        ("autocontrast", 0.3, lambda x, v: stretched(x)),
    ],
)
def test_the_ranges_are_the_published_ones(name, strength, by_hand):
    x = images()
    torch.testing.assert_close(changed(x, *at(name, 12, strength)), by_hand(x, lambda value: torch.full((12,), value)))


def test_posterise_keeps_8_to_4_bits():
    x = torch.arange(256).view(1, 1, 16, 16).float() / 255
    for strength, bits in ((0.0, 8), (0.25, 7), (0.5, 6), (0.75, 5), (1.0, 4)):
        assert len(changed(x, *at("posterise", 1, strength)).unique()) == 2**bits


def test_each_image_has_its_own_operation():
    x = images(len(NAMES))
    whole = changed(x, torch.arange(len(NAMES)), torch.full((len(NAMES),), 0.6))
    for number, name in enumerate(NAMES):
        alone = changed(x[number : number + 1], *at(name, 1, 0.6))
        torch.testing.assert_close(whole[number : number + 1], alone)


def test_rand_augment_has_all_but_invert():
    assert RAND_OPERATIONS == 14 and NAMES[RAND_OPERATIONS:] == ("invert",)


# --- AutoAugment ------------------------------------------------------------------------------------------------------


def test_a_pair_is_applied_in_order_where_it_hits():
    x = images(4)
    pair = torch.full((4,), 3)  # shear_y 0.5 at 8, translate_y 0.7 at 9
    hits = torch.tensor([[0.4, 0.6], [0.6, 0.6], [0.4, 0.8], [0.6, 0.8]])
    signs = torch.tensor([[1, -1]] * 4)
    out = by_policy(x, pair, hits, signs)
    first = changed(x, *at("shear_y", 4, 8 / 9))
    second = changed(x, *at("translate_y", 4, -1.0))
    both = changed(first, *at("translate_y", 4, -1.0))
    for row, expected in enumerate((both, second, first, x)):
        torch.testing.assert_close(out[row], expected[row], atol=1e-6, rtol=0)


def test_the_table_has_25_pairs_of_known_operations():
    assert len(CIFAR10) == 25
    assert all(name in OPERATIONS and 0 <= p <= 1 and 0 <= level <= 9 for pair in CIFAR10 for name, p, level in pair)


def test_the_table_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms")
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    words = {"Color": "colour", "Equalize": "equalise", "Posterize": "posterise", "Solarize": "solarise"}
    words |= {f"{kind}{axis}": f"{kind.lower()}_{axis.lower()}" for kind in ("Shear", "Translate") for axis in "XY"}
    theirs = tuple(
        tuple((words.get(name, name.lower()), probability, level or 0) for name, probability, level in pair)
        for pair in policy.policies
    )
    assert theirs == CIFAR10


# --- ColorShape -------------------------------------------------------------------------------------------------------


def by_shape(x, number, draw):
    return colour_shaped(x, torch.full((len(x),), number), torch.full((len(x),), float(draw)))


@pytest.mark.parametrize(
    ("number", "draw", "by_hand"),
    [
        (0, 0.0, lambda x, v: saturated(x, v(0.1))),
        (0, -0.5, lambda x, v: saturated(x, v(1.0))),
        (1, 0.5, lambda x, v: brightened(x, v(1.2))),
        (2, 0.25, lambda x, v: contrasted(x, v(0.85))),
        (3, 0.75, lambda x, v: sharpened(x, v(1.45))),
        (4, 0.1, lambda x, v: stretched(x)),
        (6, 0.25, lambda x, v: sheared(x, v(math.tan(0.1)), v(0.0))),
        (6, -0.25, lambda x, v: sheared(x, v(-math.tan(0.1)), v(0.0))),
        (6, 0.75, lambda x, v: sheared(x, v(0.0), v(math.tan(0.1)))),
        (7, 0.0, lambda x, v: turned(x, v(1.0))),
        (7, -0.55, lambda x, v: turned(x, v(-6.0))),
        (7, 0.9999, lambda x, v: turned(x, v(10.0))),
    ],
)
def test_the_operations_of_colour_shape_have_the_published_ranges(number, draw, by_hand):
    x = images()
    expected = by_hand(x, lambda value: torch.full((12,), value))
    torch.testing.assert_close(by_shape(x, number, draw), expected, atol=1e-5, rtol=0)


def test_there_are_eight_of_them_and_they_stay_in_range():
    assert COLOUR_SHAPES == 8
    x, draws = images(), torch.Generator().manual_seed(0)
    for number in range(8):
        for draw in (torch.rand(5, generator=draws) * 2 - 1).tolist():
            out = by_shape(x, number, draw)
            assert float(out.min()) >= 0 and float(out.max()) <= 1
