from dataclasses import replace

import pytest
import torch

from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.errors import InputError
from overproof.processes import Part, Processes


@pytest.fixture
def loader(image_set):
    """Return a function: a loader over 23 examples whose pixels say which example they are."""

    def make(batch=5, augment=None, seed=0):
        return Loader(image_set([0, 1] * 11 + [0]), batch, augment or Augment(), seed)

    return make


def order(loader, epoch, start=0):
    return torch.cat([(batch.x[:, 0, 0, 0] * 255).round().long() for batch in loader.batches(epoch, start)]).tolist()


def test_every_image_once_an_epoch_with_its_own_label(loader):
    made = loader()
    batches = list(made.batches(0))
    assert [len(batch.y) for batch in batches] == [5, 5, 5, 5, 3]
    assert len(made) == 5
    seen = order(made, 0)
    assert sorted(seen) == list(range(23))
    assert seen != list(range(23))
    assert torch.cat([batch.y for batch in batches]).tolist() == [number % 2 for number in seen]


def test_a_batch_that_divides_the_set_leaves_no_empty_one(image_set):
    made = Loader(image_set([0, 1] * 10), 5, Augment(), 0)
    assert len(made) == len(list(made.batches(0))) == 4


def test_the_order_is_a_function_of_seed_and_epoch(loader):
    assert order(loader(), 1) == order(loader(), 1)
    assert len({tuple(order(loader(seed=seed), epoch)) for seed in range(4) for epoch in range(4)}) == 16
    assert order(loader(batch=5), 2) == order(loader(batch=7), 2)


def test_where_one_starts_does_not_change_what_follows(loader):
    made = loader(augment=Augment(crop=1, flip=True, cutout=2))
    whole = list(made.batches(3))
    for start in range(len(made) + 1):
        rest = list(made.batches(3, start))
        assert len(rest) == len(whole) - start
        for found, wanted in zip(rest, whole[start:], strict=True):
            assert torch.equal(found.x, wanted.x)
            assert torch.equal(found.y, wanted.y)


def test_the_global_generator_plays_no_part(loader):
    made = loader(augment=Augment(crop=1))
    torch.manual_seed(1)
    first = [batch.x for batch in made.batches(0)]
    torch.manual_seed(2)
    assert all(torch.equal(a, b.x) for a, b in zip(first, made.batches(0), strict=True))


def test_augmentation_differs_by_epoch_and_by_batch(image_set):
    same = image_set([0, 1] * 10)
    same = same.at(torch.full((20,), 7))  # one image twenty times
    made = Loader(same, 10, Augment(crop=2), 0)
    first, second = (batch.x for batch in made.batches(0))
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(iter(made.batches(1))).x)


def test_pixels_are_exactly_pixel_over_255(loader):
    for batch in loader(augment=Augment(crop=1)).batches(0):
        assert batch.x.dtype == torch.float32
        scaled = (batch.x.double() * 255).round()
        assert torch.equal((scaled / 255).float(), batch.x)


class TestTooFewForABatchNorm:
    """23 images in batches of 11 leave one over, which a BatchNorm may not be able to learn from."""

    def test_a_last_batch_of_one_is_left_out_where_two_are_needed(self, loader):
        whole, short = loader(batch=11), replace(loader(batch=11), least=2)
        assert (len(whole), len(short)) == (3, 2)
        for epoch in (0, 1):
            assert order(short, epoch) == order(whole, epoch)[:22]
            assert order(short, epoch, 1) == order(whole, epoch, 1)[:11]  # a resumed epoch goes on as the whole one
            assert len(short.rows(epoch)) == 2
        left = [set(range(23)) - set(order(short, epoch)) for epoch in range(6)]
        assert len({frozenset(one) for one in left}) > 1
        assert (whole.left_out, short.left_out) == (
            "",
            "left out: the last image in the order of each epoch, too few for this network's BatchNorm to learn from",
        )

    def test_a_last_batch_of_two_is_used(self, loader):
        used = replace(loader(batch=7), least=2)
        assert (len(used), used.left_out) == (4, "")
        assert replace(loader(batch=23), least=2).left_out == ""

    def test_each_of_several_processes_needs_two(self, loader):
        for rank in range(2):
            mine = replace(loader(batch=10), processes=Processes(rank, 2), least=2)
            assert len(mine) == 2
            assert mine.left_out.startswith("left out: the last 3 images in the order")
            assert len(list(mine.batches(0))) == 2

    @pytest.mark.parametrize(("batch", "count", "needed"), [(1, 1, 2), (2, 2, 4), (3, 2, 4)])
    def test_a_batch_that_is_too_small_is_one_sentence(self, loader, batch, count, needed):
        with pytest.raises(
            InputError, match=rf"a batch of {batch} is too small: .* use training\.batch={needed} or more"
        ):
            replace(loader(batch=batch), processes=Processes(0, count), least=2)


@pytest.mark.parametrize("bank", [{}, {"bank": 3}], ids=["fresh", "bank"])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batches_of_a_single_one(loader, count, bank):
    alone = loader(batch=6, augment=Augment(crop=2, flip=True, cutout=3, **bank), seed=4)
    for rank in range(count):
        mine = replace(alone, processes=Processes(rank, count))
        assert len(mine) == len(alone) == 4
        for number, (part, whole) in enumerate(zip(mine.batches(1), alone.batches(1), strict=True)):
            assert mine.part(number) == Part(Processes(rank, count), len(whole.y))
            assert torch.equal(part.x, whole.x[rank::count])
            assert torch.equal(part.y, whole.y[rank::count])


def test_a_black_batch_stands_for_the_first(loader):
    for batch in (5, 40):
        first, like = next(loader(batch=batch).batches(0)), loader(batch=batch).like
        assert (like.x.shape, like.x.dtype, like.y.shape, like.y.dtype) == (
            first.x.shape,
            first.x.dtype,
            first.y.shape,
            first.y.dtype,
        )
        assert not like.x.any()


class TestBank:
    AUGMENT = Augment(crop=2, flip=True, bank=3)

    def by_image(self, made, epoch):
        """Return the epoch's images in the order of the set."""
        return torch.cat([batch.x for batch in made.batches(epoch)])[made.order(epoch).argsort()]

    def test_an_image_is_shown_as_its_draw_of_the_bank_in_turn(self, loader):
        made = loader(augment=self.AUGMENT)
        shown = [self.by_image(made, epoch) for epoch in range(7)]
        for epoch in range(4):
            assert torch.equal(shown[epoch], shown[epoch + 3])
            assert not torch.equal(shown[epoch], shown[epoch + 1])
        assert made.order(0).tolist() != made.order(3).tolist()

    @pytest.mark.parametrize("augment", [AUGMENT, Augment()], ids=["bank", "none"])
    def test_the_whole_set_can_be_shown_as_one_draw(self, loader, augment):
        made = loader(augment=augment)
        for epoch in (1, 4):
            assert torch.equal(torch.cat(list(made.shown(made.draw(epoch), 7))), self.by_image(made, epoch))

    def test_the_batch_size_plays_no_part(self, loader):
        small, large = loader(batch=3, augment=self.AUGMENT), loader(batch=11, augment=self.AUGMENT)
        assert torch.equal(self.by_image(small, 1), self.by_image(large, 1))
        assert not torch.equal(self.by_image(small, 1), self.by_image(loader(augment=self.AUGMENT, seed=1), 1))


class TestMixed:
    AUGMENT = Augment(crop=1, flip=True, scale=(0.5, 1.0), mixup=0.5, cutmix=1.0)

    def test_labels_are_shares_of_the_classes(self, loader):
        batches = list(loader(augment=self.AUGMENT).batches(0))
        assert [tuple(batch.y.shape) for batch in batches] == [(5, 2)] * 4 + [(3, 2)]
        assert all(torch.allclose(batch.y.sum(dim=1), torch.ones(len(batch.y))) for batch in batches)
        assert 0 < float(torch.cat([batch.y for batch in batches])[:, 0].frac().max()) < 1

    def test_where_one_starts_does_not_change_what_follows(self, loader):
        made = loader(augment=self.AUGMENT)
        whole = list(made.batches(3))
        for found, wanted in zip(made.batches(3, 2), whole[2:], strict=True):
            assert torch.equal(found.x, wanted.x) and torch.equal(found.y, wanted.y)
        assert not torch.equal(whole[0].x, next(iter(made.batches(4))).x)

    @pytest.mark.parametrize("bank", [0, 2])
    @pytest.mark.parametrize("count", [2, 3])
    def test_processes_share_the_batches_of_a_single_one(self, loader, count, bank):
        alone = loader(batch=6, augment=replace(self.AUGMENT, bank=bank), seed=4)
        for rank in range(count):
            mine = replace(alone, processes=Processes(rank, count))
            for part, whole in zip(mine.batches(1), alone.batches(1), strict=True):
                assert torch.equal(part.x, whole.x[rank::count])
                assert torch.equal(part.y, whole.y[rank::count])

    def test_an_image_is_mixed_with_one_of_its_own_batch(self, loader):
        made = loader(augment=Augment(mixup=1.0))
        for rows, batch in zip(made.rows(0), made.batches(0), strict=True):
            shades = rows / 255
            shown = batch.x[:, 0, 0, 0]
            assert float(shown.min()) >= float(shades.min()) - 1e-6
            assert float(shown.max()) <= float(shades.max()) + 1e-6


class TestBalance:
    def test_rare_classes_come_as_often(self, image_set):
        made = Loader(image_set([0] * 18 + [1] * 6), 5, Augment(), 0, balance=1.0)
        for epoch in (0, 1):
            labels = torch.cat([batch.y for batch in made.batches(epoch)])
            assert torch.bincount(labels).tolist() == [12, 12]
        assert len(made) == 5
        assert order(made, 0) != order(made, 1)

    def test_without_it_the_order_is_as_it_was(self, image_set):
        images = image_set([0] * 18 + [1] * 6)
        plain, balanced = (Loader(images, 5, Augment(), 0, balance=balance) for balance in (0.0, 1e-9))
        assert sorted(order(plain, 0)) == sorted(order(balanced, 0)) == list(range(24))
