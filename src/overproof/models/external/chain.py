"""A plain chain of convolutions and linear layers, recognised from its tensors alone.

What a file of weights does not say (strides, paddings) must lead to the size that the first linear layer reads.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from overproof.errors import InputError
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.external.untrusted import tensor_maps
from overproof.signature import Signature
from overproof.wording import one_line

_DEEPEST = 64  # layers of a chain
_SHOWN = 4  # ways that a sentence names
_LONGEST = 100  # characters of a name that a sentence shows
_LARGEST = 4096  # pixels a side of images, as of a padding
_FACTORY = "name the code of the network, with --model package.module:factory"


@dataclass(frozen=True, kw_only=True)
class ChainWord:
    """What the user says of a chain: strides and paddings, one for all convolutions or one for each; ``()``: nothing.

    ``sure`` says that it is a chain with ReLU after every layer but the last; else that must be seen in the file.
    """

    sure: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, values, least in (("stride", self.stride, 1), ("padding", self.padding, 0)):
            if any(not least <= value <= _LARGEST for value in values):
                raise InputError(f"{name} of a chain must be at least {least} and at most {_LARGEST}, not {values}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recognised:
    """A chain that was found: its architecture, its tensors by the architecture's names, and where they lay."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]
    place: str
    unused: tuple[str, ...]  # scalars beside the tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A convolution (``weight`` of four dimensions) or a linear layer (of two), ``norms`` BatchNorms folded in."""

    name: str
    weight: Tensor
    bias: Tensor
    norms: int = 0

    @property
    def number(self) -> tuple[str, int] | None:
        """What its name says of its place in an ``nn.Sequential``: that one's name and the number in it, or None."""
        parent, _, last = self.name.rpartition(".")
        return (parent, int(last)) if re.fullmatch("[0-9]{1,6}", last) else None


@dataclass(frozen=True)
class _Step:
    """What a convolution may do to a side, and whether the pixels are pooled after it (by two, or all of them)."""

    stride: int
    padding: int
    pooled: str = ""  # "two" or "all"

    def side(self, side: int, kernel: int) -> int:
        """Return the side after it, 0 where the kernel does not fit."""
        if side + 2 * self.padding < kernel:
            return 0
        after = (side + 2 * self.padding - kernel) // self.stride + 1
        return {"": after, "two": after // 2, "all": 1}[self.pooled]


def find_chain(tree: Mapping[str, Any], word: ChainWord, size: Signature, *, key: str = "") -> Recognised:
    """Return the one chain that a file, read by ``read_untrusted``, holds for images of this ``size``.

    Convolutions have square kernels and no groups; BatchNorm right after a layer of the same ``nn.Sequential`` is
    folded into it. Strides and paddings are tried: 1 or 2 (or the kernel's size without padding), and none or half the
    kernel; wider ones only where none of those fit. Where several fit, nothing is chosen. ``key`` chooses among several
    networks in the file. Raises ``InputError`` that says what is no chain, or which strides and paddings fit.
    """
    maps = [(place, tensors) for place, tensors in tensor_maps(tree) if key in ("", place) and _has_layers(tensors)]
    if not maps:
        raise InputError(f"it holds no weights of layers{f' under {one_line(key, _LONGEST)!r}' if key else ''}")
    (place, tensors), *others = maps
    if rivals := [other for other, held in others if not _same(tensors, held)]:
        labels = ", ".join(repr(one_line(each, _LONGEST)) for each in (place, *rivals)[:_SHOWN])
        raise InputError(f"it holds several networks, under {labels}; choose one with --key")
    layers, left, unused = _layers(tensors)
    convolutions = [layer for layer in layers if layer.weight.dim() == 4]
    dense = [layer for layer in layers if layer.weight.dim() == 2]
    _check_order(convolutions, dense, size)
    sees_all = word.sure or _is_sequential(layers, normalised=any(_normalises(name) for name in left))
    steps = _strides(convolutions, dense[0], word, size, sees_all=sees_all)
    hidden = tuple(layer.weight.shape[0] for layer in dense[:-1])
    architecture: Architecture = MLP(hidden=hidden)
    if convolutions:
        architecture = ConvNet(
            channels=tuple(layer.weight.shape[0] for layer in convolutions),
            kernel=tuple(layer.weight.shape[2] for layer in convolutions),
            stride=tuple(step.stride for step in steps),
            padding=tuple(step.padding for step in steps),
            hidden=hidden,
        )
    named = {f"conv{i}": layer for i, layer in enumerate(convolutions, start=1)}
    named |= {f"fc{i}": layer for i, layer in enumerate(dense, start=1)}
    own = {f"{name}.{part}": getattr(layer, part) for name, layer in named.items() for part in ("weight", "bias")}
    if twice := [name for name in left if name in own]:
        raise InputError(f"it is no chain: {one_line(twice[0], _LONGEST)} belongs to nothing")
    return Recognised(architecture=architecture, tensors={**left, **own}, place=place, unused=unused)


def _has_layers(tensors: Mapping[str, Tensor]) -> bool:
    return any("weight" in name.rpartition(".")[2] and value.dim() >= 2 for name, value in tensors.items())


def _same(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


# --- the layers, in their order ---------------------------------------------------------------------------------------


def _layers(tensors: Mapping[str, Tensor]) -> tuple[list[_Layer], dict[str, Tensor], tuple[str, ...]]:
    """Return the layers in their order, tensors of no layer, and the names of scalars."""
    left = dict(tensors)
    scalars = tuple(name for name, value in tensors.items() if value.dim() == 0 and "num_batches" not in name)
    for name in scalars:
        del left[name]
    layers = []
    for name, weight in tensors.items():
        parent, _, last = name.rpartition(".")
        if last == "weight" and weight.dim() in (2, 4) and weight.is_floating_point():
            del left[name]
            bias = left.pop(f"{parent}.bias", None)
            if bias is not None and bias.shape != weight.shape[:1]:
                shapes = f"{list(bias.shape)} beside a weight of {list(weight.shape)}"
                raise InputError(f"it is no chain: the bias of {one_line(parent, _LONGEST)} is {shapes}")
            bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
            layers.append(_Layer(name=parent, weight=weight, bias=bias))
    layers = [_fold(layer, left) for layer in layers]
    if strange := [name for name, value in left.items() if value.dim() > 0 and not _normalises(name)]:
        what = "it is a recurrent network" if any("weight_ih" in name for name in strange) else "it is no chain"
        names = ", ".join(one_line(name, _LONGEST) for name in strange[:_SHOWN])
        raise InputError(
            f"{what}: {len(strange)} tensors are not of convolutions and linear layers ({names}); {_FACTORY}"
        )
    if len(layers) > _DEEPEST:
        raise InputError(f"it is no chain: it has {len(layers)} layers, more than {_DEEPEST}; {_FACTORY}")
    first: dict[str, int] = {}
    for layer in layers:
        first.setdefault(layer.name.rstrip("0123456789"), len(first))

    def place(layer: _Layer) -> tuple[bool, int, int]:
        # Files that sort their names have 11 before 2, and "classifier" before "features".
        stem = layer.name.rstrip("0123456789")
        return layer.weight.dim() == 2, first[stem], int(layer.name[len(stem) :][:9] or 0)

    return sorted(layers, key=place), left, scalars


def _normalises(name: str) -> bool:
    """Whether a tensor may be a normalising layer's, which ``layouts`` reads."""
    return name.rpartition(".")[2] in ("mean", "std", "mu", "sigma", "new_mean", "new_std")


def _fold(layer: _Layer, left: dict[str, Tensor]) -> _Layer:
    """Return a layer with the BatchNorm that is its next neighbour folded in, whose tensors are taken out of ``left``.

    In eval mode it multiplies and shifts channels, with torch's default epsilon.
    """
    if layer.number is None:
        return layer
    parent, number = layer.number
    norm = f"{parent}.{number + 1}" if parent else str(number + 1)
    mean, variance = left.get(f"{norm}.running_mean"), left.get(f"{norm}.running_var")
    if mean is None or variance is None:
        return layer
    parts = {part: left.get(f"{norm}.{part}") for part in ("weight", "bias")}
    shape = layer.bias.shape
    if any(value is not None and value.shape != shape for value in (mean, variance, *parts.values())):
        return layer
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        left.pop(f"{norm}.{part}", None)
    scale = (variance.double() + 1e-5).rsqrt()
    scale = scale if parts["weight"] is None else scale * parts["weight"].double()
    bias = (layer.bias.double() - mean.double()) * scale
    bias = bias if parts["bias"] is None else bias + parts["bias"].double()
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return replace(layer, weight=weight.float(), bias=bias.float(), norms=1)


def _check_order(convolutions: list[_Layer], dense: list[_Layer], size: Signature) -> None:
    """Raise ``InputError`` unless every layer reads what the one before it gives."""
    if not dense:
        raise InputError(f"it is no chain: it has no linear layer; {_FACTORY}")
    if empty := [layer for layer in (*convolutions, *dense[:-1]) if min(layer.weight.shape) < 1]:
        raise InputError(f"it is no chain: {one_line(empty[0].name, _LONGEST)} is {list(empty[0].weight.shape)}, empty")
    planes = size.channels
    for layer in convolutions:
        out, into, *kernel = layer.weight.shape
        name = one_line(layer.name, _LONGEST)
        if len(set(kernel)) > 1:
            raise InputError(f"it is no chain: the kernel of {name} is {kernel}, not square; {_FACTORY}")
        if into != planes and layer is convolutions[0]:
            raise InputError(
                f"its first convolution ({name}) takes images of {into} channels, these have {size.channels}; say "
                "--data, or --size such as 1x28x28"
            )
        if into != planes:
            raise InputError(
                f"it is no chain: {name} takes {into} channels, the layer before it gives {planes}; {_FACTORY}"
            )
        planes = out
    features = dense[0].weight.shape[1]
    pixels = size.channels * size.height * size.width
    if not convolutions and features != pixels:
        raise InputError(
            f"its first linear layer ({one_line(dense[0].name, _LONGEST)}) reads {features} numbers, images of "
            f"{size.channels}x{size.height}x{size.width} have {pixels}; say --data, or --size such as 1x28x28"
        )
    for before, layer in pairwise(dense):
        if layer.weight.shape[1] != before.weight.shape[0]:
            raise InputError(
                f"it is no chain: {one_line(layer.name, _LONGEST)} takes {layer.weight.shape[1]} numbers, the layer "
                f"before it gives {before.weight.shape[0]}; {_FACTORY}"
            )


def _is_sequential(layers: list[_Layer], *, normalised: bool) -> bool:
    """Whether the numbers of an ``nn.Sequential`` show that nothing but ReLU and flattening is between the layers.

    With ``normalised`` the first one may be a normalising layer. Raises ``InputError`` where they show something else.
    """
    seen = True
    before_all = layers[0].number[1] if layers[0].number is not None and layers[0].number[0] == "" else 0
    if before_all > (layers[0].weight.dim() == 2) + normalised:
        raise InputError(
            f"before {layers[0].name} there are {before_all} layers without tensors, which a file of weights does not "
            f"describe; {_FACTORY}"
        )
    for before, layer in pairwise(layers):
        if before.number is None or layer.number is None or before.number[0] != layer.number[0]:
            seen = False
            continue
        between = layer.number[1] - before.number[1] - 1 - before.norms
        flattened = before.weight.dim() > layer.weight.dim()
        # Between linear layers a dropout, which does nothing in eval mode, may stand beside the ReLU.
        usual = (2,) if flattened else (1,) if layer.weight.dim() == 4 else (1, 2)
        if between not in usual:
            names = f"{one_line(before.name, _LONGEST)} and {one_line(layer.name, _LONGEST)}"
            raise InputError(
                f"between {names} there are {between} layers without tensors, where a chain has {usual[0]} "
                f"({'ReLU and flattening' if flattened else 'ReLU'}); {_FACTORY}"
            )
    return seen


# --- strides and paddings ---------------------------------------------------------------------------------------------


def _strides(
    convolutions: list[_Layer], first: _Layer, word: ChainWord, size: Signature, *, sees_all: bool
) -> tuple[_Step, ...]:
    """Return what the convolutions do, the one way that fits; raise ``InputError`` where there is none, or several."""
    for name, values in (("stride", word.stride), ("padding", word.padding)):
        if len(values) not in (0, 1, len(convolutions)):
            count = len(convolutions)
            raise InputError(
                f"{name}={','.join(map(str, values))}: the chain has {count} convolutions; give one number, or {count}"
            )
    if not convolutions:
        return ()
    planes, features = convolutions[-1].weight.shape[0], first.weight.shape[1]
    told = f"its first linear layer ({one_line(first.name, _LONGEST)}) reads {features} numbers"
    ways: list[tuple[_Step, ...]] = []
    for wide in (False, True):
        ways = _ways(convolutions, features / planes, word, size, wide=wide, pools=not sees_all)
        if ways:
            break
    if not ways:
        raise InputError(
            f"{told}, to which no strides and paddings of its convolutions lead from images of {size.channels}x"
            f"{size.height}x{size.width}; is it for images of another --size? Else {_FACTORY}"
        )
    pooled = [way for way in ways if any(step.pooled for step in way)]
    plain = [way for way in ways if way not in pooled]
    if len(plain) == 1 and not pooled:
        return plain[0]
    names = [f"'{_option(way)}'" for way in plain[:_SHOWN]] + (["..."] if len(plain) > _SHOWN else [])
    if not names:
        raise InputError(f"{told}, to which only pooling between its layers leads; {_FACTORY}")
    choice = " or ".join(names)
    also = f"; with pooling between its layers others fit: then {_FACTORY}" if pooled else ""
    raise InputError(f"several networks fit its tensors; choose with --model {choice}{also}")


def _option(way: tuple[_Step, ...]) -> str:
    strides, paddings = (",".join(str(getattr(step, part)) for step in way) for part in ("stride", "padding"))
    return f"chain?stride={strides}&padding={paddings}"


def _ways(
    convolutions: list[_Layer], pixels: float, word: ChainWord, size: Signature, *, wide: bool, pools: bool
) -> list[tuple[_Step, ...]]:
    """Return the ways that lead to so many pixels, those that treat most layers alike first; a few more than shown."""
    kernels = [layer.weight.shape[2] for layer in convolutions]
    options = [
        list(
            _steps(
                kernel, _at(word.stride, i), _at(word.padding, i), wide=wide, pools=pools, last=i == len(kernels) - 1
            )
        )
        for i, kernel in enumerate(kernels)
    ]
    # Sides that can be reached, layer by layer; then those of them that lead to the end: no way is tried in vain.
    reached = [{(size.height, size.width)}]
    for kernel, steps in zip(kernels, options, strict=True):
        after = {
            (step.side(height, kernel), step.side(width, kernel)) for height, width in reached[-1] for step in steps
        }
        reached.append({sides for sides in after if min(sides) > 0})
    leading = [{sides for sides in reached[-1] if sides[0] * sides[1] == pixels}]
    for kernel, steps, before in zip(reversed(kernels), reversed(options), reversed(reached[:-1]), strict=True):
        ends = leading[0]
        leading.insert(
            0,
            {
                sides
                for sides in before
                if any((step.side(sides[0], kernel), step.side(sides[1], kernel)) in ends for step in steps)
            },
        )

    def walk(i: int, sides: tuple[int, int]) -> Iterator[tuple[_Step, ...]]:
        if i == len(kernels):
            yield ()
            return
        for step in options[i]:
            after = (step.side(sides[0], kernels[i]), step.side(sides[1], kernels[i]))
            if after in leading[i + 1]:
                for rest in walk(i + 1, after):
                    yield (step, *rest)

    ways = []
    for way in walk(0, (size.height, size.width)) if leading[0] else ():
        ways.append(way)
        if len(ways) == 1000:
            break
    return sorted(ways, key=lambda way: len({(kernel, step) for kernel, step in zip(kernels, way, strict=True)}))


def _at(values: tuple[int, ...], i: int) -> int | None:
    return None if not values else values[0] if len(values) == 1 else values[i]


def _steps(
    kernel: int, stride: int | None, padding: int | None, *, wide: bool, pools: bool, last: bool
) -> Iterator[_Step]:
    """Yield what a convolution may do, as far as the user does not say it: what is usual, or all there is."""
    half = (kernel - 1) // 2
    pairs = [(1, 0), (2, 0), (1, half), (2, half), (kernel, 0)]
    strides = [s for s, _ in pairs] if not wide else range(1, max(4, kernel) + 1)
    paddings = [p for _, p in pairs] if not wide else range(kernel)
    if wide or stride is not None or padding is not None:
        chosen = [stride] if stride is not None else sorted({*strides})
        pairs = [(s, p) for s in chosen for p in ([padding] if padding is not None else sorted({*paddings}))]
    for s, p in dict.fromkeys(pairs):
        for pooled in ("", "two", *(["all"] if last else [])) if pools else ("",):
            yield _Step(s, p, pooled)
