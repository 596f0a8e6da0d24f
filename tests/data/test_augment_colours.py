import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from overproof.data import augment_colours as colours

STRENGTHS = torch.tensor([0.0, 0.3, 1.0, 1.7])


def bytes_of(seed=0, channels=3):
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(20, 230, (4, channels, 11, 13), dtype=torch.uint8, generator=draws)


def x_of(images):
    return images.float() / 255


def pillow(images, change):
    """Return what Pillow makes of each image, as floats in [0, 1]."""
    found = []
    for number, image in enumerate(images):
        out = change(Image.fromarray(image.permute(1, 2, 0).numpy()), number)
        found.append(torch.from_numpy(np.array(out)).permute(2, 0, 1))
    return torch.stack(found).float() / 255


LEVEL = 1 / 255


@pytest.mark.parametrize(
    ("ours", "theirs", "levels"),
    [
        (colours.brightened, ImageEnhance.Brightness, 1),
        (colours.contrasted, ImageEnhance.Contrast, 2),  # it rounds the mean, and the luma before
        (colours.saturated, ImageEnhance.Color, 2),
        (colours.sharpened, ImageEnhance.Sharpness, 2),
    ],
)
def test_blends_are_pillows_but_for_its_rounding(ours, theirs, levels):
    images = bytes_of()
    wanted = pillow(images, lambda image, number: theirs(image).enhance(float(STRENGTHS[number])))
    assert float((ours(x_of(images), STRENGTHS) - wanted).abs().max()) <= levels * LEVEL + 1e-6


@pytest.mark.parametrize(
    ("ours", "theirs", "levels"),
    [
        (lambda x: colours.equalised(x), ImageOps.equalize, 0),
        (lambda x: colours.stretched(x), ImageOps.autocontrast, 1),  # it cuts fractions off
        (lambda x: colours.posterised(x, torch.tensor([2.0, 4, 7, 8])), None, 0),
    ],
)
def test_tables_are_pillows(ours, theirs, levels):
    images = bytes_of()
    bits = [2, 4, 7, 8]
    change = (lambda image, _: theirs(image)) if theirs else (lambda image, n: ImageOps.posterize(image, bits[n]))
    wanted = pillow(images, change)
    assert float((ours(x_of(images)) - wanted).abs().max()) <= levels * LEVEL + 1e-6


def test_what_is_brighter_than_the_threshold_is_inverted():
    x = x_of(bytes_of())
    found = colours.solarised(x, torch.tensor([0.0, 0.25, 0.5, 1.0]))
    for one, out, threshold in zip(x, found, (0.0, 0.25, 0.5, 1.0), strict=True):
        assert torch.equal(out, torch.where(one > threshold, 1 - one, one))


@pytest.mark.parametrize("change", [colours.brightened, colours.contrasted, colours.saturated, colours.sharpened])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_factor_one_is_the_image(change, channels):
    images = bytes_of(channels=channels)
    x = x_of(images)
    out = change(x, torch.ones(4))
    assert float((out - x).abs().max()) < 1e-6
    assert torch.equal((out * 255).round().to(torch.uint8), images)


class TestHue:
    def test_a_whole_turn_and_none_are_the_image(self):
        x = x_of(bytes_of())
        for share in (0.0, 1.0, -1.0):
            assert float((colours.hued(x, torch.full((4,), share)) - x).abs().max()) < 1e-5

    def test_greys_stay_and_luma_is_kept(self):
        draws = torch.Generator().manual_seed(3)
        x = 0.4 + 0.2 * torch.rand(4, 3, 5, 5, generator=draws)  # so that nothing is cut off at 0 or 1
        out = colours.hued(x, torch.tensor([0.1, 0.25, -0.3, 0.5]))
        assert torch.allclose(colours.grey(out), colours.grey(x), atol=2e-3)  # the matrix has three digits
        one = x[:, :1].expand(-1, 3, -1, -1)
        assert torch.allclose(colours.hued(one, torch.tensor([0.1, 0.25, -0.3, 0.5])), one, atol=1e-5)

    def test_colours_go_round_as_far_as_they_are_told(self):
        red = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None]
        hues = [
            colorsys.rgb_to_hsv(*colours.hued(red, torch.tensor([share])).flatten().tolist())[0]
            for share in (0.0, 1 / 3, 2 / 3)
        ]
        assert len({round(6 * hue) % 6 for hue in hues}) == 3  # red and two others, far apart

    def test_images_without_colour_stay(self):
        x = x_of(bytes_of(channels=1))
        assert colours.hued(x, STRENGTHS) is x
        assert colours.saturated(x, STRENGTHS) is x


@pytest.mark.parametrize("change", [colours.stretched, colours.equalised])
def test_an_image_of_one_value_stays(change):
    x = torch.full((2, 3, 4, 4), 77 / 255)
    assert torch.equal(change(x), x)
