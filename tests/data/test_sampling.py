import pytest
import torch

from overproof.data.sampling import balanced_order, quotas


def order(labels, balance, seed=0, classes=3):
    return balanced_order(torch.as_tensor(labels), classes, balance, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("counts", "balance", "wanted"),
    [
        ([80, 15, 5], 0.0, [80, 15, 5]),
        ([80, 15, 5], 1.0, [34, 33, 33]),
        ([81, 16, 4], 0.5, [61, 27, 13]),  # 9 : 4 : 2 of 101
        ([10, 0, 10], 1.0, [10, 0, 10]),
        ([1000, 1, 1], 0.0, [1000, 1, 1]),
        ([1, 1, 1], 0.7, [1, 1, 1]),
    ],
)
def test_quotas(counts, balance, wanted):
    assert quotas(torch.tensor(counts), balance).tolist() in (wanted, [wanted[0] - 1, wanted[1], wanted[2] + 1])
    assert int(quotas(torch.tensor(counts), balance).sum()) == sum(counts)


def test_no_class_is_left_out():
    assert quotas(torch.tensor([100_000, 1]), 0.0).tolist() == [100_000, 1]
    found = quotas(torch.tensor([3, 3, 3, 1, 1, 1]), 0.9)
    assert int(found.sum()) == 12 and int(found.min()) >= 1


def test_images_of_a_class_come_equally_often_but_for_one():
    labels = [0] * 50 + [1] * 7 + [2] * 3
    found = order(labels, 1.0)
    times = torch.bincount(found, minlength=60)
    assert len(found) == 60
    for members in (range(50), range(50, 57), range(57, 60)):
        part = times[list(members)]
        assert int(part.max() - part.min()) <= 1
    assert [int(times[list(one)].sum()) for one in (range(50), range(50, 57), range(57, 60))] == [20, 20, 20]


def test_without_balance_every_image_comes_once_in_another_order():
    found = order([0] * 8 + [1] * 4, 0.0)
    assert sorted(found.tolist()) == list(range(12))
    assert found.tolist() != list(range(12))


def test_which_come_more_often_is_drawn():
    labels = [0] * 50 + [1] * 10
    assert torch.equal(order(labels, 1.0, classes=2), order(labels, 1.0, classes=2))
    seen = {tuple(sorted(order(labels, 1.0, seed=seed, classes=2).tolist())) for seed in range(5)}
    assert len(seen) == 5
