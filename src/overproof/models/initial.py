"""Weights to begin with: what of another network's tensors fits a student, by name and shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import torch
from torch import Tensor, nn

from overproof.errors import InputError

_PREFIXES = ("module", "model", "network", "backbone", "student", "net", "encoder", "base")
_NAMED = 4  # tensors that a sentence names


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The names of a student's tensors that were taken over (``used``) or not (``made``), and what was ``left``.

    ``made`` are those that begin as they were made: of another shape, as a head for other classes, or not there.
    ``left`` are the other network's tensors that the student has no place for.
    """

    used: tuple[str, ...]
    made: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        said = f"{len(self.used)} of {len(self.used) + len(self.made)} tensors taken over"
        said += f"; newly made: {_some(self.made)}" if self.made else ""
        return said + (f"; left out: {_some(self.left)}" if self.left else "")


def take_over(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> Taken:
    """Copy into a network what fits it of another one's tensors, in place.

    Names match but for what those of either begin with (``module.``, ``backbone.`` and the like); shapes match exactly.
    Raises ``InputError`` where no weight matrix fits, and where what fits is not finite.
    """
    own = network.state_dict()
    places = [(inner, outer) for inner in _prefixes(own) for outer in _prefixes(weights)]
    inner, outer = max(places, key=lambda place: len(_fitting(own, weights, *place)))
    sources = _fitting(own, weights, inner, outer)
    if not any(own[name].dim() > 1 for name in sources):
        raise InputError(
            f"{where}: none of its weights fits the student; it holds {_some(tuple(weights))}, the student "
            f"{_some(tuple(own))}"
        )
    for source in sources.values():
        if not bool(weights[source].isfinite().all()):
            raise InputError(f"{where}: {source} has values that are not finite")
    with torch.no_grad():
        for name, source in sources.items():
            own[name].copy_(weights[source])
    known = {outer + name.removeprefix(inner) for name in own if name.startswith(inner)}
    return Taken(
        used=tuple(sources),
        made=tuple(name for name in own if name not in sources),
        left=tuple(name for name in weights if name not in known),
    )


def name_in_order(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Return tensors whose names say nothing, as an ONNX file's, by the names of a network with the same layers.

    Both are read in their order: weight matrices must have the same shapes but for the last one, the head. What an
    export made of a BatchNorm, a bias of the layer before, becomes the BatchNorm's. Raises ``InputError`` where the
    matrices are others.
    """
    own, other = _layers(network.state_dict()), _layers(weights)
    shapes = [[tuple(layer.matrix.shape) for layer in part if layer.matrix is not None] for part in (own, other)]
    for number, (mine, theirs) in enumerate(zip_longest(*shapes), start=1):
        if mine != theirs and (mine is None or theirs is None or number < len(shapes[0])):
            mine, theirs = ("missing" if one is None else "x".join(map(str, one)) for one in (mine, theirs))
            raise InputError(
                f"{where}: its weight matrices, in their order, are not the student's: number {number} is {theirs}, "
                f"the student's {mine}; name the network that it came from"
            )
    return {name: value for pair in zip(own, other, strict=True) for name, value in _rename(*pair)}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A weight matrix with all tensors up to the next one, by their names; the first layer has none."""

    matrix: Tensor | None
    tensors: Mapping[str, Tensor]

    @property
    def norm(self) -> str | None:
        """What the names of its BatchNorm begin with."""
        return next((name.removesuffix("running_mean") for name in self.tensors if name.endswith("running_mean")), None)

    @property
    def name(self) -> str:
        """The name of the matrix."""
        return next(iter(self.tensors))

    @property
    def start(self) -> str:
        """What the name of the matrix's bias begins with."""
        return self.name.removesuffix("weight")


def _layers(weights: Mapping[str, Tensor]) -> list[_Layer]:
    starts = [number for number, value in enumerate(weights.values()) if value.dim() > 1]
    names = list(weights)
    parts = [names[: starts[0]] if starts else names]
    parts += [names[start:end] for start, end in pairwise([*starts, len(names)])]
    return [
        _Layer(matrix=weights[part[0]] if number else None, tensors={name: weights[name] for name in part})
        for number, part in enumerate(parts)
    ]


def _rename(own: _Layer, other: _Layer) -> Iterator[tuple[str, Tensor]]:
    if own.matrix is not None and other.matrix is not None:
        yield own.name, other.matrix
        bias = other.tensors.get(other.start + "bias")
        if bias is not None and own.start + "bias" in own.tensors:
            yield own.start + "bias", bias
        elif bias is not None and own.norm is not None and other.norm is None:
            yield own.norm + "bias", bias
    if own.norm is not None and other.norm is not None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            if other.norm + part in other.tensors:
                yield own.norm + part, other.tensors[other.norm + part]


def _prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the beginnings that may have to go: nothing, and every chain of customary words that names begin with."""
    prefixes = {""}
    for name in weights:
        prefix = ""
        for word in name.split("."):
            if word not in _PREFIXES:
                break
            prefix += f"{word}."
            prefixes.add(prefix)
    return sorted(prefixes)  # of equals the first is taken, and by every process the same


def _fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], inner: str, outer: str) -> dict[str, str]:
    """Return which of the weights fits which tensor, where those begin with ``outer`` and these with ``inner``."""
    names = {name: outer + name.removeprefix(inner) for name in own if name.startswith(inner)}
    return {name: source for name, source in names.items() if _fits(own[name], weights.get(source))}


def _fits(own: Tensor, other: Tensor | None) -> bool:
    return other is not None and own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
