"""A frozen convolution answers as the convolution does, and so does its way back."""

import pytest
import torch
from torch import nn

from overproof.models.inference.frozen import FrozenConv2d

SUITED = {
    "3x3": nn.Conv2d(4, 8, 3, padding=1),
    "3x3, no padding": nn.Conv2d(4, 8, 3),
    "1x1": nn.Conv2d(4, 8, 1, bias=False),
    "5x5, odd padding": nn.Conv2d(3, 5, 5, padding=1),
    "4x4, stride 2": nn.Conv2d(1, 8, 4, stride=2, padding=1),
    "3x3, stride 3": nn.Conv2d(3, 5, 3, stride=3),
    "6x6, stride 2": nn.Conv2d(2, 3, 6, stride=2, padding=3),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "grouped, stride 2": nn.Conv2d(6, 12, 4, stride=2, padding=1, groups=2),
    "grouped 5x5": nn.Conv2d(4, 4, 5, padding=2, groups=2),
}
NOT_SUITED = {
    "stride does not divide": nn.Conv2d(4, 8, 3, stride=2, padding=1),
    "strided 1x1": nn.Conv2d(4, 8, 1, stride=2),
    "oblong": nn.Conv2d(4, 8, (3, 1)),
    "uneven stride": nn.Conv2d(4, 8, 4, stride=(2, 4)),
    "dilated": nn.Conv2d(4, 8, 3, dilation=2),
    "mirrored border": nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
    "named padding": nn.Conv2d(4, 8, 3, padding="same"),
    "uneven padding": nn.Conv2d(4, 8, 3, padding=(1, 0)),
    "padding beyond the kernel": nn.Conv2d(4, 8, 3, padding=3),
}


@pytest.mark.parametrize("size", [(8, 8), (9, 11), (12, 7)])
@pytest.mark.parametrize("name", SUITED)
def test_the_output_and_the_input_gradient_are_those_of_the_convolution(name, size):
    convolution = SUITED[name].double()
    frozen = FrozenConv2d(convolution)
    x = torch.randn(3, convolution.in_channels, *size, dtype=torch.float64, requires_grad=True)
    told, found = convolution(x), frozen(x)
    assert torch.equal(found, told)
    above = torch.randn_like(told)
    (expected,) = torch.autograd.grad(told, x, above)
    (gradient,) = torch.autograd.grad(found, x, above)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["3x3", "grouped, stride 2"])
def test_no_images_have_a_gradient_of_none(name):
    frozen = FrozenConv2d(SUITED[name].double())
    x = torch.empty(0, SUITED[name].in_channels, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(frozen(x).sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("name", SUITED)
def test_it_learns_nothing_and_moves_with_its_buffers(name):
    frozen = FrozenConv2d(SUITED[name]).to(torch.bfloat16)
    assert not list(frozen.parameters())
    assert {buffer.dtype for buffer in frozen.buffers()} == {torch.bfloat16}
    assert FrozenConv2d.suits(SUITED[name])


@pytest.mark.parametrize("name", [name for name in NOT_SUITED if name != "mirrored border"])
def test_what_is_not_suited_goes_the_librarys_way(name):
    convolution = NOT_SUITED[name]
    x = torch.randn(3, convolution.in_channels, 9, 9, requires_grad=True)
    told, found = convolution(x), FrozenConv2d(convolution)(x)
    assert torch.equal(found, told)
    assert torch.equal(*(torch.autograd.grad(one.square().sum(), x)[0] for one in (told, found)))


@pytest.mark.parametrize("name", NOT_SUITED)
def test_other_convolutions_are_not_suited(name):
    assert not FrozenConv2d.suits(NOT_SUITED[name])


def test_channels_last_gives_the_same_numbers():
    convolution = SUITED["4x4, stride 2"].float()
    frozen = FrozenConv2d(convolution).to(memory_format=torch.channels_last)
    x = torch.rand(5, 1, 28, 28)
    rows = x.to(memory_format=torch.channels_last).requires_grad_()
    x.requires_grad_()
    (expected,) = torch.autograd.grad(convolution(x).sum(), x)
    (gradient,) = torch.autograd.grad(frozen(rows).sum(), rows)
    torch.testing.assert_close(gradient, expected)
