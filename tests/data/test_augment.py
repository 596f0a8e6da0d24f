import math
from itertools import product

import pytest
import torch

from overproof.building import build_value
from overproof.data.augment import Augment
from overproof.data.augment_policies import changed


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    # Random bytes: two shifts of one image are never equal, so an output says which shift it is.
    return torch.randint(1, 256, (400, 3, 7, 6), dtype=torch.uint8, generator=drawn(5))


def shifts(image, crop, flip):
    """Return the slow twin's outputs by (down, right, mirrored): pad with zeros, cut a window out, pixel by pixel."""
    channels, height, width = image.shape
    found = {}
    for mirrored, down, right in product((False, True) if flip else (False,), range(2 * crop + 1), range(2 * crop + 1)):
        out = torch.zeros_like(image)
        for c, row, column in product(range(channels), range(height), range(width)):
            y = row + down - crop
            x = (width - 1 - column if mirrored else column) + right - crop
            if 0 <= y < height and 0 <= x < width:
                out[c, row, column] = image[c, y, x]
        found[down, right, mirrored] = out
    return found


def which(out, candidates):
    matches = [key for key, candidate in candidates.items() if torch.equal(out, candidate)]
    assert len(matches) == 1
    return matches[0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 2])
def test_every_output_is_one_of_the_allowed_moves_of_its_own_image(images, crop, flip):
    part = images[:12]
    out = Augment(crop=crop, flip=flip)(part, drawn())
    assert out.dtype == torch.uint8
    moves = [which(moved, shifts(image, crop, flip)) for image, moved in zip(part, out, strict=True)]
    if crop or flip:
        assert len(set(moves)) > 1


def test_all_moves_are_about_equally_frequent():
    # One image many times, so that the slow twin is asked once.
    image = torch.randint(1, 256, (1, 4, 4), dtype=torch.uint8, generator=drawn(1))
    candidates = shifts(image, 1, flip=True)
    out = Augment(crop=1, flip=True)(image.repeat(3600, 1, 1, 1), drawn())
    counts = dict.fromkeys(candidates, 0)
    for moved in out:
        counts[which(moved, candidates)] += 1
    assert len(counts) == 18
    # 200 of each expected; a chi-square of 17 degrees of freedom exceeds 40.8 once in a thousand.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 40.8


def test_what_moves_in_is_zero():
    out = Augment(crop=3)(torch.full((200, 1, 5, 5), 255, dtype=torch.uint8), drawn())
    assert set(out.unique().tolist()) == {0, 255}
    assert out.flatten(1).amax(dim=1).eq(255).all()


def test_flip_alone_mirrors_left_and_right_about_half_the_time(images):
    out = Augment(flip=True)(images, drawn())
    mirrored = (out == images.flip(3)).flatten(1).all(dim=1)
    kept = (out == images).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cutout_is_a_square_of_zeros_around_a_uniform_centre(size):
    images = torch.full((4200, 2, 7, 6), 9, dtype=torch.uint8)
    out = Augment(cutout=size)(images, drawn())
    centres = torch.zeros(7, 6)
    squares = {}
    for y, x in product(range(7), range(6)):
        square = torch.full((2, 7, 6), 9, dtype=torch.uint8)
        top, left = y - size // 2, x - size // 2
        square[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        squares[square.numpy().tobytes()] = (y, x)
    assert len(squares) == 42
    for one in out:
        centres[squares[one.numpy().tobytes()]] += 1  # KeyError: not a square that may be cut
    # 100 of each expected; chi-square of 41 degrees of freedom exceeds 74.7 once in a thousand.
    assert ((centres - 100) ** 2 / 100).sum() < 74.7


def test_channels_move_together_and_rows_do_not_mix_with_columns():
    grid = torch.arange(30, dtype=torch.uint8).reshape(1, 1, 5, 6).repeat(50, 3, 1, 1)
    out = Augment(crop=2, flip=True, cutout=2)(grid, drawn())
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_is_a_function_of_the_generator_and_leaves_its_input_alone(images):
    before = images.clone()
    augment = Augment(crop=2, flip=True, cutout=3)
    assert torch.equal(augment(images, drawn(1)), augment(images, drawn(1)))
    assert not torch.equal(augment(images, drawn(1)), augment(images, drawn(2)))
    assert torch.equal(images, before)


def test_neither_reads_nor_moves_the_global_generator(images):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = Augment(crop=2, flip=True, cutout=3)(images, drawn())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(first, Augment(crop=2, flip=True, cutout=3)(images, drawn()))


def test_floats_stay_floats():
    x = torch.rand(10, 1, 4, 4)
    out = Augment(crop=1, flip=True)(x, drawn())
    assert out.dtype == torch.float32
    assert set(out.flatten().tolist()) <= {0.0, *x.flatten().tolist()}


def test_off_by_default(images):
    generator = drawn()
    state = generator.get_state()
    assert Augment()(images, generator) is images
    assert torch.equal(generator.get_state(), state)


def test_negative_pixels_are_refused():
    with pytest.raises(ValueError, match="crop and cutout are pixels and cannot be negative, got -1 and 0"):
        Augment(crop=-1)
    with pytest.raises(ValueError, match="got 0 and -2"):
        Augment(cutout=-2)


def test_the_number_of_draws_an_image_has():
    assert Augment().draws == Augment(bank=5).draws == 1  # nothing is drawn
    assert Augment(crop=1).draws == Augment(flip=True).draws == Augment(cutout=2).draws == 0  # without end
    assert Augment(flip=True, bank=5).draws == 5
    with pytest.raises(ValueError, match=r"^bank is a number of draws \(0: a new one in every epoch\), got -1$"):
        Augment(bank=-1)


def test_a_draw_can_be_applied_again_and_belongs_to_its_image(images):
    augment = Augment(crop=2, flip=True, cutout=3)
    draws = augment.draw(len(images), (7, 6), drawn(2))
    whole = augment.apply(images, draws)
    assert torch.equal(whole, augment(images, drawn(2)))
    some = torch.tensor([17, 3, 399, 3])
    assert torch.equal(augment.apply(images[some], draws[some]), whole[some])
    assert [int(column.max()) for column in draws.T] == [4, 4, 1, 6, 5]
    assert torch.equal(draws.min(dim=0).values, torch.zeros(5, dtype=torch.int64))


PHOTO = {
    "resized": {"scale": (0.3, 1.0)},
    "brightness": {"brightness": 0.4},
    "contrast": {"contrast": 0.4},
    "saturation": {"saturation": 0.4},
    "hue": {"hue": 0.1},
    "trivial": {"trivial": True},
    "crop_shift": {"crop_shift": 3},
    "colour_shape": {"colour_shape": True},
    "erasing": {"erasing": 0.8},
    "auto_augment": {"auto_augment": True},
    "rand_augment": {"rand_augment": 2, "rand_magnitude": 15},
    "all": {
        "scale": (0.3, 0.9),
        "crop": 1,
        "flip": True,
        "cutout": 2,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "trivial": True,
    },
}


LATER = ("crop_shift", "colour_shape", "erasing", "auto_augment", "rand_augment")


class TestPhotographs:
    @pytest.mark.parametrize("options", PHOTO.values(), ids=PHOTO.keys())
    @pytest.mark.parametrize("floats", [False, True], ids=["uint8", "float32"])
    def test_is_a_function_of_the_generator_in_range_and_of_the_same_type(self, images, options, floats):
        given = images.float() / 255 if floats else images
        before, state = given.clone(), torch.get_rng_state()
        augment = Augment(**options)
        out = augment(given, drawn(1))
        assert torch.equal(out, augment(given, drawn(1)))
        assert not torch.equal(out, augment(given, drawn(2)))
        assert (out.dtype, out.shape) == (given.dtype, given.shape)
        assert not floats or (float(out.min()) >= -1e-6 and float(out.max()) <= 1 + 1e-6)
        assert torch.equal(given, before) and torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("options", PHOTO.values(), ids=PHOTO.keys())
    def test_a_draw_belongs_to_its_image(self, images, options):
        augment = Augment(**options)
        draws = augment.draw(len(images), (7, 6), drawn(2))
        whole, some = augment.apply(images, draws), torch.tensor([17, 3, 399, 3])
        later = any(name in options for name in LATER)
        assert draws.shape == (400, 34 + 2 * options.get("rand_augment", 0) if later else 16)
        assert torch.equal(augment.apply(images[some], draws[some]), whole[some])

    @pytest.mark.parametrize("options", PHOTO.values(), ids=PHOTO.keys())
    def test_they_count_as_draws(self, options):
        assert Augment(**options).draws == 0
        assert Augment(**options, bank=3).draws == 3

    def test_what_was_drawn_before_is_drawn_still(self):
        """A run of a recipe without them draws what it drew when they were not there."""
        old = Augment(crop=2, flip=True, cutout=3)
        assert torch.equal(
            old.draw(9, (7, 6), drawn(1)),
            Augment(crop=2, flip=True, cutout=3, scale=(0.5, 1)).draw(9, (7, 6), drawn(1))[:, :5],
        )
        old = Augment(crop=2, scale=(0.5, 1), hue=0.1, trivial=True)
        later = {"crop_shift": 4, "colour_shape": True, "erasing": 0.5, "auto_augment": True, "rand_augment": 2}
        new = Augment(crop=2, scale=(0.5, 1), hue=0.1, trivial=True, **later)
        assert torch.equal(old.draw(9, (7, 6), drawn(1)), new.draw(9, (7, 6), drawn(1))[:, :16])

    def test_a_part_has_a_share_between_the_bounds(self):
        # A ramp's slope tells how much of it is shown.
        ramp = torch.linspace(0, 1, 101)[None, None, None, :].expand(300, 1, 101, 101)
        out = Augment(scale=(0.25, 0.49), ratio=(1.0, 1.0))(ramp, drawn())
        shown = out[:, 0, 50, 99] - out[:, 0, 50, 1]
        # The part's side is between 0.5 and 0.7 of the image's; 98 of its 101 columns are compared.
        assert float(shown.min()) > 0.5 * 98 / 101 - 0.02
        assert float(shown.max()) < 0.7 * 98 / 101 + 0.02
        assert float(shown.max() - shown.min()) > 0.15

    @pytest.mark.parametrize("name", ["brightness", "contrast"])
    def test_factors_are_between_their_bounds(self, name):
        x = torch.tensor([0.4, 0.6])[None, None, :, None].expand(2000, 1, 2, 2)
        out = Augment(**{name: 0.3})(x, drawn())
        factor = (out[:, 0, 1, 0] / 0.6) if name == "brightness" else (out[:, 0, 1, 0] - out[:, 0, 0, 0]) / 0.2
        assert 0.7 - 1e-5 <= float(factor.min()) < 0.71
        assert 1.29 < float(factor.max()) <= 1.3 + 1e-5

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"scale": (0.0, 1.0)}, "scale is the least and the greatest share of the image"),
            ({"scale": (0.6, 0.5)}, "scale is the least and the greatest share of the image"),
            ({"scale": (0.6, 1.5)}, "scale is the least and the greatest share of the image"),
            ({"ratio": (0.0, 1.0)}, "ratio is the least and the greatest width by height"),
            ({"brightness": 1.5}, "brightness is from 0 to 1, got 1.5"),
            ({"contrast": -0.1}, "contrast is from 0 to 1, got -0.1"),
            ({"saturation": float("nan")}, "saturation is from 0 to 1, got nan"),
            ({"hue": 0.6}, r"hue is from 0 to 0\.5, got 0\.6"),
            ({"mixup": -1.0}, "mixup and cutmix are the a of Beta"),
            ({"cutmix": -1.0}, "mixup and cutmix are the a of Beta"),
        ],
    )
    def test_strengths_out_of_range(self, options, sentence):
        with pytest.raises(ValueError, match=sentence):
            Augment(**options)


class TestIDBH:
    def test_the_presets_are_the_published_forms(self):
        for name, erasing in (("idbh_weak", 0.5), ("idbh_strong", 1.0)):
            found = build_value(Augment, {"preset": name})
            assert found == Augment(flip=True, crop_shift=10, colour_shape=True, erasing=erasing)
            assert build_value(Augment, {"preset": name, "crop_shift": 4}).crop_shift == 4

    def test_lines_are_cut_from_none_to_the_greatest_number_and_dealt_to_rows_and_columns(self):
        white = torch.full((4000, 1, 12, 12), 255, dtype=torch.uint8)
        out = Augment(crop_shift=3)(white, drawn())
        rows, columns = (12 - (out[:, 0] > 0).any(dim=2 - axis).sum(dim=1) for axis in (0, 1))
        cut = rows + columns
        counts = torch.bincount(cut, minlength=4)
        assert len(counts) == 4 and counts.min() > 1000 - 5 * math.sqrt(4000 * 0.25 * 0.75)  # five deviations
        assert set(rows[cut == 3].tolist()) == {0, 1, 2, 3}

    @pytest.mark.parametrize("probability", [0.25, 1.0])
    def test_a_box_is_erased_so_often_and_is_so_large(self, probability):
        white = torch.full((4000, 1, 20, 20), 255, dtype=torch.uint8)
        black = (Augment(erasing=probability)(white, drawn())[:, 0] == 0).flatten(1).sum(dim=1)
        hits = int((black > 0).sum())
        assert abs(hits - 4000 * probability) <= 5 * math.sqrt(4000 * probability * (1 - probability))
        sizes = black[black > 0].float() / 400
        assert float(sizes.max()) <= 0.33 + 1 / 20 and float(sizes.mean()) > 0.1

    def test_rand_augment_applies_so_many_operations(self, images):
        augment = Augment(rand_augment=2, rand_magnitude=30)
        draws = augment.draw(400, (7, 6), drawn())
        x = images.float() / 255
        expected = x
        for column in (34, 36):
            expected = changed(expected, draws[:, column], 1.0 - 2 * draws[:, column + 1])
        torch.testing.assert_close(augment.apply(x, draws), expected)
        assert set(draws[:, 34].tolist()) == set(range(14))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"crop_shift": -1}, "crop_shift is a number of lines and cannot be negative, got -1"),
            ({"erasing": 1.5}, "erasing is a probability, got 1.5"),
            (
                {"rand_augment": -1},
                "rand_augment is a number of operations and rand_magnitude from 0 to 30, got -1 and 9",
            ),
            ({"rand_magnitude": 31}, "rand_augment is a number of operations .* from 0 to 30, got 0 and 31"),
        ],
    )
    def test_bad_options_are_refused(self, options, sentence):
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            Augment(**options)
