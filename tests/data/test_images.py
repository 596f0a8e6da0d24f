import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overproof.data.images import (
    ImageSet,
    balanced_subset,
    check_held_out,
    check_trainable,
    hold_out,
    pixels,
    stratified_subset,
)
from overproof.errors import InputError
from overproof.signature import Signature
from overproof.statistics import Proportion


def made(labels, classes=None):
    """Return a set whose first pixel (low byte, high byte) says which example it is."""
    number = torch.arange(len(labels))
    images = torch.stack([number % 256, number // 256], dim=1).to(torch.uint8)[:, :, None, None].repeat(1, 1, 2, 2)
    count = max(labels) + 1 if classes is None else classes
    return ImageSet("made", images, torch.tensor(labels), tuple(f"c{i}" for i in range(count)))


def numbers(images):
    return (images.images[:, 0, 0, 0].long() + 256 * images.images[:, 1, 0, 0].long()).tolist()


label_lists = st.lists(st.integers(0, 3), min_size=8, max_size=300)


class TestImageSet:
    def test_knows_what_it_asks_of_a_network(self):
        found = made([0, 1, 2, 1])
        assert found.signature == Signature(channels=2, height=2, width=2, classes=3)
        assert len(found) == 4

    @pytest.mark.parametrize(
        ("images", "labels", "sentence"),
        [
            (
                torch.zeros(2, 4, 4),
                [0, 1],
                "s: expected images [N, C, H, W] and as many labels, got (2, 4, 4) and (2,)",
            ),
            (
                torch.zeros(2, 1, 4, 4),
                [0],
                "s: expected images [N, C, H, W] and as many labels, got (2, 1, 4, 4) and (1,)",
            ),
            (torch.zeros(0, 1, 4, 4), [], "s: there are no images"),
            (torch.zeros(2, 1, 4, 4), [0, 2], "s: label 2 is outside 0..1 (2 classes are named)"),
            (torch.zeros(2, 1, 4, 4), [-1, 1], "s: label -1 is outside 0..1 (2 classes are named)"),
            (torch.zeros(2, 1, 4, 4).double(), [0, 1], "s: images must be uint8 or float32, got torch.float64"),
            (
                torch.tensor([0.0, 255.0]).reshape(2, 1, 1, 1),
                [0, 1],
                "s: float images must lie in [0, 1], these span [0, 255]; divide by 255",
            ),
            (
                torch.tensor([-1.5, 1.5]).reshape(2, 1, 1, 1),
                [0, 1],
                "s: float images must lie in [0, 1], these span [-1.5, 1.5]; undo the normalisation",
            ),
        ],
    )
    def test_refuses_what_cannot_be_meant(self, images, labels, sentence):
        with pytest.raises(InputError) as caught:
            ImageSet("s", images, torch.tensor(labels, dtype=torch.int64), ("a", "b"))
        assert str(caught.value) == sentence

    def test_float_images_pass_through_unchanged(self):
        images = torch.rand(3, 1, 2, 2)
        found = ImageSet("s", images, torch.tensor([0, 1, 0]), ("a", "b"))
        assert torch.equal(torch.cat([batch.x for batch in found.batches(2)]), images)

    def test_batches_keep_the_order(self):
        found = made([0, 1, 2, 1, 0])
        batches = list(found.batches(2))
        assert [len(batch.y) for batch in batches] == [2, 2, 1]
        assert torch.equal(torch.cat([batch.y for batch in batches]), found.labels)
        assert torch.equal(torch.cat([batch.x for batch in batches]), pixels(found.images))

    def test_at_picks_in_the_order_given(self):
        assert numbers(made([0, 1, 2, 1]).at(torch.tensor([3, 0]))) == [3, 0]
        assert made([0, 1, 2, 1]).at(torch.tensor([3, 0])).labels.tolist() == [1, 0]

    def test_the_digest_sees_pixels_labels_order_and_shape(self):
        base = made([0, 1, 1, 0])
        assert base.digest == made([0, 1, 1, 0]).digest
        other_pixel = base.images.clone()
        other_pixel[0, 0, 0, 0] += 1
        others = [
            made([1, 0, 1, 0]),
            base.at(torch.tensor([1, 0, 2, 3])),
            ImageSet("made", other_pixel, base.labels, base.classes),
            ImageSet("made", base.images.reshape(4, 1, 4, 2), base.labels, base.classes),
        ]
        assert base.digest not in [other.digest for other in others]

    def test_the_digest_ignores_the_memory_layout(self):
        base = made([0, 1, 1, 0])
        images = base.images.to(memory_format=torch.channels_last)
        assert ImageSet("made", images, base.labels, base.classes).digest == base.digest


def test_pixels_are_exactly_pixel_over_255():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    exact = torch.tensor([value / 255 for value in range(256)], dtype=torch.float64).float()
    assert torch.equal(pixels(every).flatten(), exact)
    assert every.dtype == torch.uint8  # the set itself is not changed


class TestCheckTrainable:
    def refused(self, images, batch):
        with pytest.raises(InputError) as caught:
            check_trainable(images, batch)
        return str(caught.value)

    def test_accepts_what_can_be_learnt_from(self):
        check_trainable(made([0, 1, 2, 1]), 4)

    def test_one_class(self):
        sentence = "made: every training image has the same label, so there is nothing to learn"
        assert self.refused(made([0, 0, 0]), 2) == sentence
        assert self.refused(made([1, 1, 1], classes=3), 2) == sentence

    def test_an_absent_class(self):
        assert self.refused(made([0, 1, 3], classes=5), 2) == "made: no training image of class 'c2', 'c4'"

    def test_a_batch_larger_than_the_data(self):
        assert self.refused(made([0, 1, 1]), 4) == "made: a batch of 4 is larger than the 3 training images"


class TestHoldOut:
    @given(label_lists, st.floats(0.01, 0.6), st.integers(0, 5))
    @settings(max_examples=50, deadline=None)
    def test_is_complete_disjoint_in_order_and_the_same_share_of_every_class(self, labels, fraction, seed):
        images = made(labels, classes=4)
        if 1 in images.labels.bincount(minlength=4):
            return  # a class of one goes to the held-out part whole, and check_trainable says so
        kept, held = hold_out(images, fraction, seed)
        assert sorted(numbers(kept) + numbers(held)) == list(range(len(labels)))
        assert numbers(kept) == sorted(numbers(kept))
        assert numbers(held) == sorted(numbers(held))
        for label in range(4):
            of = labels.count(label)
            wanted = max(1, round(fraction * of)) if of else 0
            assert int((held.labels == label).sum()) == wanted

    def test_is_a_function_of_the_seed(self):
        images = made([0, 1] * 50)
        assert hold_out(images, 0.2, 3)[1].digest == hold_out(images, 0.2, 3)[1].digest
        assert len({hold_out(images, 0.2, seed)[1].digest for seed in range(5)}) == 5

    def test_a_class_of_one_is_held_out_and_the_rest_refused(self):
        kept, held = hold_out(made([0, 0, 0, 0, 1]), 0.25, 0)
        assert held.labels.tolist().count(1) == 1
        with pytest.raises(InputError, match="every training image has the same label"):
            check_trainable(kept, 1)


class TestCheckHeldOut:
    def refused(self, labels, fraction):
        images = made(labels)
        kept, _ = hold_out(images, fraction, 0)
        with pytest.raises(InputError) as caught:
            check_held_out(images, kept)
        return str(caught.value)

    def test_a_class_of_one_image(self):
        assert self.refused([0, 0, 0, 0, 1], 0.25) == (
            "made: class 'c1' has one training image, which is held out for the choice of the epoch, so none is left "
            "to learn from; add images of it or leave the class out"
        )

    def test_a_class_that_a_large_fraction_takes(self):
        assert "class 'c1' has 2 training images, which are held out" in self.refused([0] * 9 + [1] * 2, 0.8)
        assert self.refused([0] * 9 + [1] * 2, 0.8).endswith("(or hold out less: selection.fraction)")

    def test_a_class_without_images_is_not_its_affair(self):
        images = made([0, 0, 1, 1], classes=3)
        check_held_out(images, hold_out(images, 0.5, 0)[0])


class TestPrints:
    def test_equal_images_have_equal_numbers(self):
        images = made([0, 1, 2, 1]).at(torch.tensor([0, 1, 0, 3]))
        first, second, third, fourth = images.prints.tolist()
        assert first == third
        assert len({first, second, fourth}) == 3
        assert images.prints.dtype == torch.int64

    def test_the_shape_counts(self):
        flat = torch.zeros(1, 1, 2, 8, dtype=torch.uint8)
        one, other = (
            ImageSet("s", flat.reshape(shape), torch.tensor([0]), ("a",)) for shape in ((1, 1, 2, 8), (1, 1, 4, 4))
        )
        assert one.prints.tolist() != other.prints.tolist()


def test_notes_stay_with_a_part():
    images = ImageSet("s", torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"), ("said",))
    assert images.at(torch.tensor([1])).to(torch.device("cpu")).decoded().examined().notes == ("said",)


class TestStratifiedSubset:
    @given(label_lists, st.floats(0.05, 1.1), st.integers(0, 5))
    @settings(max_examples=50, deadline=None)
    def test_every_class_has_its_share(self, labels, share, seed):
        images, count = made(labels, classes=4), max(1, round(share * len(labels)))
        chosen = stratified_subset(images, count, seed).tolist()
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, len(labels))
        # Each class is within one image of its share of the line, and all four together are off by less than four.
        for label in range(4):
            part = labels.count(label) / len(labels)
            assert abs(sum(labels[i] == label for i in chosen) - len(chosen) * part) < 1 + 4 * part

    def test_a_smaller_one_lies_within_a_larger_one(self):
        images = made([0] * 30 + [1] * 7 + [2] * 3)
        found = [set(stratified_subset(images, count, 1).tolist()) for count in (5, 6, 20, 40)]
        assert found[0] < found[1] < found[2] < found[3]

    def test_every_image_is_as_likely_as_any_other(self):
        images = made([0] * 3 + [1] * 7 + [2] * 30)
        times = torch.zeros(40)
        for seed in range(2000):
            times[stratified_subset(images, 6, seed)] += 1
        # 2,000 draws at 0.15: a standard deviation of 16, and 40 images.
        assert (abs(times - 300) < 5 * 16).all()

    def test_is_a_function_of_the_seed_and_not_always_the_same_images(self):
        images = made([0, 1, 2] * 40)
        first = stratified_subset(images, 30, 0)
        assert torch.equal(first, stratified_subset(images, 30, 0))
        assert len({tuple(stratified_subset(images, 30, seed).tolist()) for seed in range(5)}) == 5

    def test_the_interval_of_a_share_covers_that_of_all_images(self):
        """What docs/faq.md says, for classes of unequal size and difficulty: 95 % of 1,000 subsets."""
        labels = [0] * 80 + [1] * 60 + [2] * 40 + [3] * 20 + [4] * 10
        images = made(labels, classes=5)
        right = torch.tensor([number % 10 < (9, 7, 3, 1, 0)[label] for number, label in enumerate(labels)])

        def covered(subset):
            found = (right[subset(images, 50, seed)] for seed in range(1000))
            intervals = [Proportion(claim="", passed=int(part.sum()), of=50).interval for part in found]
            return sum(low <= float(right.double().mean()) <= high for low, high in intervals)

        assert covered(stratified_subset) >= 950
        assert covered(balanced_subset) < 500  # which is why it is not used for figures


class TestBalancedSubset:
    @given(label_lists, st.floats(0.05, 1.1), st.integers(0, 5))
    @settings(max_examples=50, deadline=None)
    def test_counts_differ_by_at_most_one_where_they_can(self, labels, share, seed):
        images, count = made(labels, classes=4), max(1, round(share * len(labels)))
        chosen = balanced_subset(images, count, seed).tolist()
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, len(labels))
        taken = [sum(labels[i] == label for i in chosen) for label in range(4)]
        unfilled = [taken[label] for label in range(4) if taken[label] < labels.count(label)]
        # A class that still has examples is never more than one behind any other.
        assert all(max(taken) - few <= 1 for few in unfilled)

    def test_is_a_function_of_the_seed_and_not_always_the_same_images(self):
        images = made([0, 1, 2] * 40)
        first = balanced_subset(images, 30, 0)
        assert torch.equal(first, balanced_subset(images, 30, 0))
        assert len({tuple(balanced_subset(images, 30, seed).tolist()) for seed in range(5)}) == 5


def test_gathering_is_indexing_part_by_part():
    images = made([0, 1] * 6)
    parts = [torch.tensor([3, 3]), torch.tensor([0, 11, 5])]
    for found, part in zip(images.gather(parts), parts, strict=True):
        assert torch.equal(found, images.images[part])
    assert list(images.gather([])) == []
    assert images.decoded() is images
    assert images.device == torch.device("cpu")
