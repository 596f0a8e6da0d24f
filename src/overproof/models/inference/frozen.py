"""A convolution that learns nothing: the gradient of its input is a convolution as well, and runs as fast as one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


class FrozenConv2d(nn.Module):
    """A convolution without gradients to its weights; one that is padded by zeros.

    Libraries compute the input gradient of a convolution with kernels written for training; on CPUs those are
    several times slower than the forward ones, most of all for few channels. Here it is a forward convolution with
    flipped weights: with stride s there are s * s of them, one per position of a pixel between two windows, and their
    outputs are woven together. Where that does not suit, the library's own is left.
    """

    weight: Tensor
    bias: Tensor | None
    flipped: Tensor | None

    @staticmethod
    def suits(convolution: nn.Conv2d) -> bool:
        """Whether the flipped weights hold no more numbers than the weights: the stride divides the kernel."""
        (kernel, other), (stride, across) = convolution.kernel_size, convolution.stride
        return (
            kernel == other
            and stride == across
            and kernel % stride == 0
            and convolution.dilation == (1, 1)
            and convolution.padding_mode == "zeros"
            and isinstance(convolution.padding, tuple)
            and convolution.padding[0] == convolution.padding[1] < kernel
        )

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding = convolution.stride, convolution.padding
        self.dilation, self.groups = convolution.dilation, convolution.groups
        self.flips = self.suits(convolution)
        bias = None if convolution.bias is None else convolution.bias.detach().clone()
        self.take(convolution.weight.detach().clone(), bias)

    def take(self, weight: Tensor, bias: Tensor | None, *, in_place: bool = False) -> None:
        """Use these weights ``[C', C / groups, k, k]`` and this bias ``[C']`` from now on.

        In place, they are copied to where those before lie, if they are alike; else they are kept as they are.
        """
        flipped = _flip(weight, self.stride[0], self.groups) if self.flips else None
        if flipped is not None and weight.is_contiguous(memory_format=torch.channels_last):
            flipped = flipped.contiguous(memory_format=torch.channels_last)
        for name, value in (("weight", weight), ("bias", bias), ("flipped", flipped)):
            held = getattr(self, name, None)
            if in_place and value is not None and held is not None and _alike(value, held):
                held.copy_(value)
            else:
                self.register_buffer(name, value)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C', H', W']``."""
        if not self.flips:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        place = self.stride[0], int(self.padding[0]), self.groups
        output: Tensor = _Convolution.apply(x, self.weight, self.bias, self.flipped, *place)  # type: ignore[no-untyped-call]
        return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        flipped: Tensor,
        stride: int,
        padding: int,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(flipped)
        ctx.place = stride, padding, groups, x.shape[2:]
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (flipped,) = ctx.saved_tensors
        stride, padding, groups, (height, width) = ctx.place
        reach = flipped.shape[-1] - 1
        if stride == 1:
            return F.conv2d(gradient, flipped, None, 1, reach - padding, 1, groups), *[None] * 6
        woven = _woven(F.conv2d(gradient, flipped, None, 1, reach, 1, groups), stride, groups)
        # The last rows and columns are missing where no window reached them.
        below, right = (
            max(padding + size - have, 0) for size, have in zip((height, width), woven.shape[2:], strict=True)
        )
        if below or right:
            woven = F.pad(woven, (0, right, 0, below))
        return woven[:, :, padding : padding + height, padding : padding + width], *[None] * 6


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (other.shape, other.stride(), other.dtype, other.device)


def _flip(weight: Tensor, stride: int, groups: int) -> Tensor:
    """Return weights ``[C * s * s, C' / groups, k / s, k / s]`` from ``[C', C / groups, k, k]``.

    A pixel at offset ``s * m + r`` of a window gets the window's gradient times the weight there; so for each r the
    gradient is correlated with every s-th weight, in reversed order of m. Within a group, r comes before the channel.
    """
    outputs, inputs, kernel, _ = weight.shape
    taps = kernel // stride
    parts = weight.reshape(groups, outputs // groups, inputs, taps, stride, taps, stride).flip(3, 5)
    return parts.permute(0, 4, 6, 2, 1, 3, 5).reshape(groups * inputs * stride**2, outputs // groups, taps, taps)


def _woven(parts: Tensor, stride: int, groups: int) -> Tensor:
    """Return ``[N, C, s * H, s * W]`` from the outputs ``[N, C * s * s, H, W]`` of flipped weights.

    ``F.pixel_shuffle`` moves every number on its own; here a pixel's channels, which lie together, are moved together.
    """
    count, channels, height, width = parts.shape
    inputs = channels // (groups * stride**2)
    split = parts.permute(0, 2, 3, 1).reshape(count, height, width, groups, stride, stride, inputs)
    woven = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, height * stride, width * stride, groups * inputs)
    return woven.permute(0, 3, 1, 2)
