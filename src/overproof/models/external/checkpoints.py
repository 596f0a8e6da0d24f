"""Whose weights are these? The names of a network, found again in a checkpoint of any code's layout."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from overproof.errors import InputError
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.catalogue import NAMED
from overproof.models.classifier import linear_layer
from overproof.models.external.module import External, external_of
from overproof.models.external.untrusted import tensor_maps
from overproof.signature import Signature
from overproof.wording import one_line

_SYNONYMS = {
    **dict.fromkeys(("downsample", "convShortcut"), "shortcut"),
    **dict.fromkeys(("fc", "classifier", "logits", "head"), "linear"),
}
"""Parts of names that differ between the lineages of one network (torchvision, kuangliu/pytorch-cifar, TRADES)."""
_NORMALISERS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""Buffers of a normalising layer: MAIR and timm's wrappers, RobustBench's, MadryLab's."""
_UNUSED = ("sub_block1.",)
"""TRADES stores a block that its forward pass never enters."""
_SHOWN = 3
_PLACES = 20
_LONGEST = 100  # characters of a name that a message shows


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A network's tensors, found in a file, by the network's own names and in float32.

    ``place`` is the entry they lay in (``"net"``, ``"state_dict"``; ``""``: the whole file), ``prefix`` what stood
    before every name (``"module."``), ``unused`` what the file holds besides. ``mean`` and ``std`` are those of a
    normalising layer in the file; empty where it has none, or one that changes nothing.
    """

    tensors: dict[str, Tensor]
    classes: int
    place: str
    prefix: str
    unused: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Match:
    """One way to read a file as a network: which of its keys is which name."""

    place: str
    prefix: str
    keys: Mapping[str, str]  # of the network's names, to the file's
    tensors: Mapping[str, Tensor]

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.place, self.prefix.rstrip("."))))

    def left(self, layer: Iterable[str]) -> list[str]:
        """Return the keys under the prefix that are neither a name's nor the normalising layer's."""
        known = {*self.keys.values(), *layer}
        return [key for key in self.tensors if key.startswith(self.prefix) and key not in known]

    def same_as(self, other: "_Match") -> bool:
        return self.keys.keys() == other.keys.keys() and all(
            torch.equal(self.tensors[self.keys[name]], other.tensors[key]) for name, key in other.keys.items()
        )


@dataclass(frozen=True)
class _Outline:
    """What a network's tensors are called and how they are shaped; ``head`` is the name of its last layer."""

    shapes: Mapping[str, tuple[int, ...]]
    head: str


def find_weights(
    tree: Mapping[str, Any], architecture: Architecture, size: Signature, *, name: str, classes: int = 0, key: str = ""
) -> Weights:
    """Return the weights of an architecture in a file that ``read_untrusted`` read.

    The entry and the prefix are those under which most of the network's names are found, so that a new layout needs no
    entry here. ``size`` says channels, height and width; the number of classes is read off the last layer, and must be
    ``classes`` where that is not 0. ``key`` chooses among several networks in one file (``"state_dict_ema"``). ``name``
    is what messages call the architecture. Raises ``InputError`` that says what is missing, left over or of another
    shape, and which named network the file fits instead.
    """
    maps = dict(tensor_maps(tree))
    if not maps:
        raise InputError("it holds no tensors by their names")
    external = external_of(architecture)
    known = classes or size.classes or _last_rows(maps, key)
    outline = _outline(architecture, size) if external is None else _outline_of_code(external, size, known)
    ways = _best(maps, outline.shapes, key, exactly=external is not None)
    if ways is None:
        places = _some([repr(place) for place in maps], _PLACES)
        raise InputError(f"it holds nothing of {name}{_other(maps, size, name)}; its entries are {places}")
    best, others = ways
    rivals = [way.label for way in others if not best.same_as(way)]
    if rivals and 2 * len(best.keys) > len(outline.shapes):  # with fewer it is another network's file
        labels = _some([repr(label) for label in (best.label, *rivals)], _PLACES)
        raise InputError(f"it holds several networks, under {labels}; choose one with --key")
    sizes = {own: tuple(best.tensors[theirs].shape) for own, theirs in best.keys.items()}
    head = f"{outline.head}.weight"
    count = sizes[head][0] if sizes.get(head) else classes or size.classes or 2
    count = known if external is not None else count  # as its code was asked for
    if classes and count != classes:
        raise InputError(f"its last layer ({_some([best.keys[head]])}) is for {count} classes, not {classes}")
    if count < 1:
        raise InputError(f"its last layer ({_some([best.keys[head]])}) is for no class at all")
    wanted = _outline(architecture, size, count).shapes if external is None else outline.shapes
    missing = [own for own in wanted if own not in sizes and not own.endswith("num_batches_tracked")]
    # Other people's code may have a normalising layer of its own.
    besides = {key: value for key, value in best.tensors.items() if key not in set(best.keys.values())}
    mean, std, layer = _normaliser(besides, size.channels)
    left = best.left(layer)
    strange = [
        each for each in left if not _describe_expected(each.removeprefix(best.prefix), strictly=external is not None)
    ]
    shapes = [
        f"{_some([best.keys[own]])} is {list(has)} where {list(wanted[own])} is needed"
        for own, has in sizes.items()
        if has != wanted[own]
    ]
    if missing or strange or shapes:
        told = [
            f"{len(missing)} of {len(wanted)} tensors are missing ({_some(missing)})" if missing else "",
            f"{len(strange)} belong to nothing ({_some(strange)})" if strange else "",
            f"{len(shapes)} are of another shape ({shapes[0]})" if shapes else "",
        ]
        raise InputError(f"it is no {name}: {'; '.join(filter(None, told))}{_other(maps, size, name)}")
    tensors = {own: _single(best.tensors[theirs]) for own, theirs in best.keys.items()}
    infinite = [own for own, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if infinite:
        raise InputError(
            f"{len(infinite)} of its tensors are not finite ({_some(infinite)}); the training had diverged"
        )
    return Weights(
        tensors=tensors,
        classes=count,
        place=best.place,
        prefix=best.prefix,
        unused=tuple(sorted({each.split(".")[0] for each in left})),
        mean=mean,
        std=std,
    )


def _best(
    maps: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, Any], key: str = "", *, exactly: bool = False
) -> tuple[_Match, list[_Match]] | None:
    """Return the reading that covers most names, and those that cover as many; None where no name is found.

    ``exactly`` takes no synonyms for parts of names.
    """
    common = str if exactly else _common
    ways = [way for place, tensors in maps.items() for way in _readings(place, tensors, names, common)]
    ways = [way for way in ways if not key or key in (way.place, way.label)]
    if not ways:
        return None
    most = max(len(way.keys) for way in ways)
    best, *others = sorted(
        (way for way in ways if len(way.keys) == most), key=lambda way: (len(way.tensors), len(way.label))
    )
    return best, others


def _readings(
    place: str, tensors: Mapping[str, Tensor], names: Iterable[str], common: Callable[[str], str]
) -> Iterable[_Match]:
    """Yield a reading for every prefix under which a name is found, by what is ``common`` to its synonyms."""
    known = {common(name): name for name in names}
    longest = max((name.count(".") for name in known), default=0) + 1
    under: dict[str, dict[str, str]] = {}
    for key in tensors:
        parts = key.split(".")
        for start in range(max(0, len(parts) - longest), len(parts)):
            own = known.get(common(".".join(parts[start:])))
            if own is not None:
                under.setdefault("".join(f"{part}." for part in parts[:start]), {})[own] = key
    return (_Match(place=place, prefix=prefix, keys=keys, tensors=tensors) for prefix, keys in under.items())


def _common(name: str) -> str:
    return ".".join(_SYNONYMS.get(part, part) for part in name.split("."))


@cache
def _outline(architecture: Architecture, size: Signature, classes: int = 2) -> _Outline:
    """Return what a network's tensors are called, built without memory for them."""
    signature = replace(size, classes=classes)
    try:
        with torch.device("meta"):
            sketch = architecture.build(signature)
    except ValueError as problem:
        raise InputError(f"{architecture.kind} for {signature}: {problem}") from problem
    return _Outline(
        shapes={name: tuple(value.shape) for name, value in sketch.state_dict().items()},
        head=next(name for name, module in sketch.named_modules() if module is sketch.head),
    )


def _outline_of_code(architecture: External, size: Signature, classes: int) -> _Outline:
    """Return the outline of a network that other people's code makes, each time again: the code may have changed."""
    sketch = architecture.build(replace(size, classes=classes))
    try:
        head = linear_layer(sketch, architecture.features)
    except ValueError:  # it has no linear layer
        head = None
    return _Outline(
        shapes={name: tuple(value.shape) for name, value in sketch.state_dict().items()},
        head=next((name for name, module in sketch.named_modules() if module is head), ""),
    )


def _last_rows(maps: Mapping[str, Mapping[str, Tensor]], key: str) -> int:
    """Return how many rows the last matrix in a file has, the number of classes of most networks; at least 1."""
    chosen = [tensors for place, tensors in maps.items() if key in ("", place)] or list(maps.values())
    rows = [value.shape[0] for value in max(chosen, key=len).values() if value.dim() == 2]
    return max(1, rows[-1]) if rows else 2


def _normaliser(
    tensors: Mapping[str, Tensor], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Return mean, std and the keys of normalising layers; the shortest key's values where there are several."""
    pairs = []
    for key in sorted(tensors, key=len):
        parent, _, last = key.rpartition(".")
        for mean, std in _NORMALISERS:
            other = f"{parent}.{std}" if parent else std
            if last == mean and other in tensors and tensors[key].numel() == tensors[other].numel() == channels:
                pairs.append((key, other))
    keys = tuple(key for pair in pairs for key in pair)
    for first, second in pairs:
        means, stds = _numbers(tensors[first]), _numbers(tensors[second])
        if any(means) or any(value != 1 for value in stds):
            return means, stds, keys
    return (), (), keys


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 7) for value in tensor.flatten())  # as it was written, not as float32 has it


def _describe_expected(name: str, *, strictly: bool = False) -> bool:
    return (name.startswith(_UNUSED) and not strictly) or name.endswith("num_batches_tracked")


def _single(value: Tensor) -> Tensor:
    return value.detach().float() if value.is_floating_point() else value.detach()


def _other(maps: Mapping[str, Mapping[str, Tensor]], size: Signature, name: str) -> str:
    """Return a hint at the named network whose names and shapes the file has, or nothing."""
    other = next((other for other in names_that_fit(maps, size) if other != name), None)
    return f"; by names and shapes it is {other!r}: say --model {other}" if other else ""


def names_that_fit(maps: Mapping[str, Mapping[str, Tensor]], size: Signature, key: str = "") -> Iterator[str]:
    """Yield the named networks whose names and shapes the tensors of a file have (``dict(tensor_maps(tree))``)."""
    for name, architecture in NAMED.items():
        try:
            outline = _outline(architecture, size)
        except InputError:  # the images are too small for it
            continue
        ways = _best(maps, outline.shapes, key)
        if ways is not None and _fits(ways[0], outline, size.channels):
            yield name


def _fits(match: _Match, outline: _Outline, channels: int) -> bool:
    """Whether every tensor is there in its shape, but for the number of classes, and none is left over."""
    left = match.left(_normaliser(match.tensors, channels)[2])
    return (
        all(_describe_expected(key.removeprefix(match.prefix)) for key in left)
        and all(
            name.endswith("num_batches_tracked")
            or (
                name in match.keys
                # The first dimension of the head's tensors is the number of classes.
                and tuple(match.tensors[match.keys[name]].shape)[name.startswith(f"{outline.head}.") :]
                == shape[name.startswith(f"{outline.head}.") :]
            )
            for name, shape in outline.shapes.items()
        )
    )


def _some(names: list[str], shown: int = _SHOWN) -> str:
    return ", ".join(one_line(name, _LONGEST) for name in names[:shown]) + (", ..." if len(names) > shown else "")


def load_into(backbone: nn.Module, weights: Weights) -> None:
    """Copy found weights into a network of the same architecture and classes, in place."""
    backbone.load_state_dict(weights.tensors, strict=False)
