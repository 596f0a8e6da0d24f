import numpy as np
import pytest
import torch

from overproof.data.images import Batch
from overproof.data.mixing import Mix, drawn_mix

SIZE = (9, 7)


def batch(n=12, classes=4):
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.rand(n, 3, *SIZE, generator=draws), torch.arange(n) % classes)


def mixed(mix, whole, classes=4, rows=None):
    rows = torch.arange(len(whole.y)) if rows is None else rows
    partners = mix.partner[rows]
    return mix.applied(Batch(whole.x[rows], whole.y[rows]), Batch(whole.x[partners], whole.y[partners]), rows, classes)


def area_of(mix):
    """Return how many pixels of each image are cut out."""
    top, bottom, left, right = mix.box.unbind(dim=1)
    return (bottom - top) * (right - left)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_is_a_slow_twins(mixup, cutmix):
    whole = batch(40)
    mix = drawn_mix(40, SIZE, 5, mixup=mixup, cutmix=cutmix)
    x, y = mixed(mix, whole)
    for row in range(40):
        other = int(mix.partner[row])
        top, bottom, left, right = mix.box[row].tolist()
        share = float(mix.blend[row])
        own = 0
        for down in range(SIZE[0]):
            for across in range(SIZE[1]):
                inside = top <= down < bottom and left <= across < right
                own += not inside
                first, second = whole.x[row, :, down, across].double(), whole.x[other, :, down, across].double()
                wanted = second if inside else share * first + (1 - share) * second
                assert float((x[row, :, down, across] - wanted).abs().max()) < 1e-6
        weight = share * own / (SIZE[0] * SIZE[1])
        wanted = torch.zeros(4, dtype=torch.float64)
        wanted[whole.y[row]] += weight
        wanted[whole.y[other]] += 1 - weight
        assert float((y[row] - wanted).abs().max()) < 1e-6


def test_labels_are_shares_and_pixels_lie_between():
    whole = batch(300)
    x, y = mixed(drawn_mix(300, SIZE, 1, mixup=0.2, cutmix=1.0), whole)
    assert torch.allclose(y.sum(dim=1), torch.ones(300))
    assert float(y.min()) >= 0
    assert float(x.min()) >= float(whole.x.min()) - 1e-6 and float(x.max()) <= float(whole.x.max()) + 1e-6


def test_off_is_the_image_to_the_bit():
    whole = batch()
    x, y = mixed(drawn_mix(12, SIZE, 1, mixup=0.0, cutmix=0.0), whole)
    assert torch.equal(x, whole.x)
    assert torch.equal(y.argmax(dim=1), whole.y) and torch.equal(y.amax(dim=1), torch.ones(12))


def test_an_image_that_is_its_own_partner_keeps_its_class():
    whole = batch(3)
    mix = Mix(partner=torch.arange(3), box=torch.tensor([[0, 5, 0, 5]] * 3), blend=torch.full((3,), 0.25).double())
    x, y = mixed(mix, whole)
    assert torch.allclose(x, whole.x, atol=1e-6)
    assert torch.allclose(y.amax(dim=1), torch.ones(3))


def test_rows_can_be_mixed_by_themselves():
    whole, mix = batch(), drawn_mix(12, SIZE, 3, mixup=0.5, cutmix=0.5)
    x, y = mixed(mix, whole)
    rows = torch.tensor([7, 1, 10])
    part = mixed(mix, whole, rows=rows)
    assert torch.equal(part.x, x[rows]) and torch.equal(part.y, y[rows])


def test_draws_are_those_of_the_seed_and_of_the_distribution():
    one, same, other = (drawn_mix(4000, SIZE, seed, mixup=0.4, cutmix=0.0) for seed in (1, 1, 2))
    assert torch.equal(one.blend, same.blend) and not torch.equal(one.blend, other.blend)
    assert sorted(one.partner.tolist()) == list(range(4000))
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)); four standard errors of each.
    variance = 1 / (4 * 1.8)
    assert abs(float(one.blend.mean()) - 0.5) < 4 * (variance / 4000) ** 0.5
    assert abs(float(one.blend.var()) - variance) < 4 * 0.25 * (2 / 4000) ** 0.5
    assert not area_of(one).any()


def test_both_are_used_equally_often_and_never_together():
    mix = drawn_mix(2000, (64, 64), 1, mixup=1.0, cutmix=1.0)
    cut = mix.blend == 1
    assert 880 < int(cut.sum()) < 1120  # six standard deviations of a fair coin are 134
    assert not area_of(mix)[~cut].any()


def test_a_cut_lies_in_the_image_and_covers_about_its_share():
    mix = drawn_mix(5000, (64, 48), 1, mixup=0.0, cutmix=1.0)
    top, bottom, left, right = mix.box.unbind(dim=1)
    area = area_of(mix).double() / (64 * 48)
    assert (top >= 0).all() and (bottom <= 64).all() and (left >= 0).all() and (right <= 48).all()
    shares = np.random.default_rng(0).random((200_000, 3))
    # What sticks out is left out: of a side s at a uniform centre, in each direction s (1 - s / 4) is left.
    side = np.sqrt(shares[:, 0])
    wanted = float(np.mean((side * (1 - side / 4)) ** 2))
    assert abs(float(area.mean()) - wanted) < 0.02
