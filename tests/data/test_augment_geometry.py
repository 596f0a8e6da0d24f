import math

import pytest
import torch
import torch.nn.functional as F

from overproof.data.augment_geometry import boxes, crop_shifted, erased, moved, resized, sheared, turned


def images(n=20, channels=3, height=9, width=7, seed=0):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def uniform(n, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestBoxes:
    def test_a_box_has_its_area_and_shape_but_for_rounding(self):
        n = 500
        area, ratio = 0.1 + 0.3 * uniform(n, 0), 0.75 + 0.5 * uniform(n, 1)
        top, left, height, width = boxes((200, 300), area, ratio, (uniform(n, 2), uniform(n, 3))).unbind(dim=1)
        # Each side is off by at most half a pixel.
        assert ((height - (area * 60000 / ratio).sqrt()).abs() <= 0.5 + 1e-9).all()
        assert ((width - (area * 60000 * ratio).sqrt()).abs() <= 0.5 + 1e-9).all()
        assert (top >= 0).all() and (top + height <= 200).all() and (left >= 0).all() and (left + width <= 300).all()
        assert int((top + height).max()) > 190 and int(top.min()) < 10

    def test_what_would_stick_out_is_cut(self):
        one = torch.ones(1, dtype=torch.float64)
        assert boxes((10, 40), one, one, (one * 0.99, one * 0.99)).tolist() == [[0, 20, 10, 20]]

    def test_a_box_has_a_pixel(self):
        tiny = torch.full((1,), 1e-9, dtype=torch.float64)
        assert boxes((8, 8), tiny, torch.ones(1), (tiny, tiny)).tolist() == [[0, 0, 1, 1]]


class TestResized:
    def test_is_each_parts_own_interpolation(self):
        x, n = images(60), 60
        box = boxes((9, 7), 0.05 + 0.9 * uniform(n, 1), 0.5 + 1.5 * uniform(n, 2), (uniform(n, 3), uniform(n, 4)))
        found = resized(x, box)
        for one, (top, left, height, width), out in zip(x, box.tolist(), found, strict=True):
            part = one[None, :, top : top + height, left : left + width]
            wanted = F.interpolate(part.double(), (9, 7), mode="bilinear", align_corners=False)[0]
            # float32 weights and two interpolations of numbers in [0, 1].
            assert float((out - wanted).abs().max()) < 1e-6

    def test_the_whole_image_stays_to_the_bit(self):
        x = images()
        assert torch.equal(resized(x, torch.tensor([[0, 0, 9, 7]]).expand(20, 4)), x)


class TestMaps:
    @pytest.mark.parametrize("change", [turned, lambda x, s: sheared(x, s, s), lambda x, s: moved(x, s, s)])
    def test_strength_zero_is_the_image(self, change):
        x = images()
        # Places are computed to some 1e-6 of a pixel.
        assert float((change(x, torch.zeros(20)) - x).abs().max()) < 1e-5

    def test_whole_pixels_move_whole_pixels(self):
        x = images(2, height=8, width=8)
        out = moved(x, torch.tensor([2 / 8, 0.0]), torch.tensor([0.0, -1 / 8]))
        assert torch.allclose(out[0, :, :, 2:], x[0, :, :, :-2], atol=1e-5)
        assert not out[0, :, :, :2].any()
        assert torch.allclose(out[1, :, :-1], x[1, :, 1:], atol=1e-5)

    def test_a_quarter_turn_turns_the_pixels(self):
        x = images(1, height=6, width=6)
        assert torch.allclose(turned(x, torch.tensor([-90.0])), x.rot90(1, dims=(2, 3)), atol=1e-5) or torch.allclose(
            turned(x, torch.tensor([-90.0])), x.rot90(-1, dims=(2, 3)), atol=1e-5
        )

    def test_a_turn_keeps_lengths_where_an_image_is_not_square(self):
        x = torch.zeros(1, 1, 41, 81)
        x[0, 0, 20, 50:53] = 1  # 31 to the right of the centre
        found = turned(x, torch.tensor([30.0]))[0, 0].nonzero().double() - torch.tensor([20.0, 40.0])
        lengths = found.norm(dim=1)
        assert float(lengths.min()) > 8 and float(lengths.max()) < 15
        assert abs(abs(math.atan2(*found.mean(dim=0).tolist())) - math.pi / 6) < 0.1

    def test_a_shear_moves_rows_by_their_height(self):
        x = torch.zeros(1, 1, 9, 9)
        x[:, :, :, 4] = 1
        columns = sheared(x, torch.tensor([1.0]), torch.zeros(1))[0, 0].argmax(dim=1).tolist()
        assert columns == list(range(8, -1, -1)) or columns == list(range(9))


class TestCropShift:
    @staticmethod
    def slow(image, cut, wide, places):
        """Return what is left of one image pixel by pixel."""
        height, width = image.shape[1:]
        rows, columns = cut - wide, wide
        top, put_top = int(places[0] * (rows + 1)), int(places[2] * (rows + 1))
        left, put_left = int(places[1] * (columns + 1)), int(places[3] * (columns + 1))
        out = torch.zeros_like(image)
        for row in range(height - rows):
            for column in range(width - columns):
                out[:, put_top + row, put_left + column] = image[:, top + row, left + column]
        return out

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_it_is_the_slow_twin(self, dtype):
        draws = torch.Generator().manual_seed(0)
        n = 60
        images = torch.randint(1, 256, (n, 3, 9, 7), dtype=torch.uint8, generator=draws)
        images = images if dtype == torch.uint8 else images.float() / 255
        cut = torch.randint(0, 6, (n,), generator=draws)
        wide = (torch.rand(n, generator=draws) * (cut + 1)).long()
        places = torch.rand(n, 4, generator=draws, dtype=torch.float64)
        out = crop_shifted(images, cut, wide, places)
        assert out.dtype == dtype
        for number in range(n):
            expected = self.slow(images[number], int(cut[number]), int(wide[number]), places[number].tolist())
            assert torch.equal(out[number], expected)

    def test_nothing_cut_changes_nothing(self):
        images = torch.randint(0, 256, (5, 1, 6, 6), dtype=torch.uint8)
        zero = torch.zeros(5, dtype=torch.int64)
        assert torch.equal(crop_shifted(images, zero, zero, torch.rand(5, 4)), images)


def test_erased_boxes_are_black_where_they_hit():
    images = torch.randint(1, 256, (6, 3, 8, 9), dtype=torch.uint8)
    box = torch.tensor([[0, 0, 8, 9], [2, 3, 1, 4], [7, 8, 1, 1], [0, 0, 3, 3], [1, 1, 2, 2], [4, 0, 4, 9]])
    hit = torch.tensor([True, True, True, False, False, True])
    out = erased(images, box, hit)
    for image, changed, (top, left, tall, wide), one in zip(images, out, box.tolist(), hit.tolist(), strict=True):
        expected = image.clone()
        if one:
            expected[:, top : top + tall, left : left + wide] = 0
        assert torch.equal(changed, expected)
