"""What a step gives, and where the images of a batch lie in it."""

import torch

from overproof.bounds.layers import Layer, alike, halves


def test_a_constant_is_one_for_each_image_or_none():
    value = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert alike(value, 0).tolist() == [1.0, 2.0]
    assert alike(value, 1) is None
    assert alike(value, 2) is None


def test_a_constant_is_one_for_each_part_of_an_image():
    value = torch.tensor([1.0, 2.0, 1.0, 2.0])
    assert alike(value, 0, 2).tolist() == [1.0, 2.0]
    assert alike(value, 0) is None
    assert alike(torch.tensor([1.0, 1.0, 2.0, 2.0]), 0, 2) is None
    assert halves(value, 0, 3) is None


def test_dimensions_of_one_image():
    plain, cut = Layer(3, 1), Layer(3, 1, parts=4)
    assert plain.one((5, 2, 6)) == (5, 6) and cut.one((5, 8, 6)) == (5, 4, 6)
    assert [plain.own(dim, 3) for dim in (0, 2)] == [-2, -1]
    assert [cut.own(dim, 3) for dim in (0, 2)] == [-3, -1]
    assert not plain.like(cut) and plain.like(Layer(7, 1)) and cut.at(9) == Layer(9, 1, 4)
