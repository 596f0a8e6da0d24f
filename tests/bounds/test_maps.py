import pytest
import torch
import torch.nn.functional as F

from overproof.bounds import maps
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.region import Bounds

from .networks import normal

SHAPE = (2, 7, 6)
X = normal(3, *SHAPE)
AVERAGES = {
    "plain": {"kernel_size": 2},
    "stride": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    "padding not counted": {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    "last windows not whole": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "both": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    "last windows not whole, padding counted": {"kernel_size": 4, "stride": 3, "padding": 1, "ceil_mode": True},
    "another divisor": {"kernel_size": 2, "divisor_override": 3},
}
LARGEST = {
    "plain": {"kernel_size": 2},
    "options": {"kernel_size": 3, "stride": (2, 1), "padding": 1, "dilation": 1},
    "last windows not whole": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "dilated": {"kernel_size": 2, "stride": 3, "dilation": 2, "ceil_mode": True},
}


def applied(operators, x):
    found = Bounds(x, x)
    for operator in operators:
        found = operator.forward(found)
    torch.testing.assert_close(found.lower, found.upper)
    return found.centre


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
def test_average_pooling_is_torch_s(options):
    truth = F.avg_pool2d(X, **options)
    torch.testing.assert_close(applied(maps.average(SHAPE, tuple(truth.shape[1:]), X, **options), X), truth)


@pytest.mark.parametrize("options", LARGEST.values(), ids=LARGEST)
@pytest.mark.parametrize("lower", [False, True])
def test_max_pooling_is_torch_s(options, lower):
    x = X - 10 if lower else X  # zeros around the map would be the largest
    truth = F.max_pool2d(x, **options)
    given = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False} | options
    torch.testing.assert_close(applied([maps.max_pool(SHAPE, tuple(truth.shape[1:]), **given)], x), truth)


@pytest.mark.parametrize("size", [(7, 3), (1, 1), (3, 4), (5, 6)])
def test_adaptive_pooling_is_torch_s(size):
    truth = F.adaptive_avg_pool2d(X, size)
    torch.testing.assert_close(applied(maps.adaptive(SHAPE, tuple(truth.shape[1:]), X), X), truth)


@pytest.mark.parametrize("keepdim", [False, True])
def test_the_mean_of_a_map_is_torch_s(keepdim):
    truth = X.mean((2, 3), keepdim=keepdim)
    torch.testing.assert_close(applied(maps.mean_of_map(SHAPE, X, keepdim=keepdim), X), truth)


def test_batch_norm_is_torch_s():
    mean, variance, weight, bias = (normal(2, seed=seed).abs() for seed in range(4))
    truth = F.batch_norm(X, mean, variance, weight, bias, eps=0.1)
    torch.testing.assert_close(applied([maps.batch_norm(mean, variance, weight, bias, 0.1, 3)], X), truth)
    plain = F.batch_norm(X.flatten(2), mean, variance)
    torch.testing.assert_close(applied([maps.batch_norm(mean, variance, None, None, 1e-5, 2)], X.flatten(2)), plain)


@pytest.mark.parametrize("padding", ["same", "valid", 1, (0, 2)])
def test_a_convolution_is_torch_s(padding):
    weight, bias = normal(3, 2, 3, 3, seed=4), normal(3, seed=5)
    truth = F.conv2d(X, weight, bias, padding=padding)
    torch.testing.assert_close(applied([maps.conv(weight, bias, padding=padding)], X), truth)


def test_zeros_around_a_map_are_torch_s():
    torch.testing.assert_close(applied([maps.pad_map((1, 0, 2, 3))], X), F.pad(X, (1, 0, 2, 3)))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda: maps.conv(normal(1, 1, 3)), "a convolution of other than maps"),
        (lambda: maps.conv(normal(1, 1, 2, 2), padding="same"), "one-sided padding"),
        (lambda: maps.conv(normal(1, 1, 2, 2), padding_mode="reflect"), "reflect padding"),
        (
            lambda: maps.max_pool(
                SHAPE, SHAPE, kernel_size=2, stride=1, padding=0, dilation=1, ceil_mode=False, return_indices=True
            ),
            "return_indices",
        ),
    ],
)
def test_what_has_no_bounds_is_named(step, words):
    with pytest.raises(NoBoundsError, match=words):
        step()
