"""Weights to begin with: what of another network's tensors fits a student, by name and shape."""

from collections.abc import Mapping
from dataclasses import dataclass

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


def _prefixes(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the beginnings that may have to go: nothing, and every chain of customary words that names begin with."""
    found = {""}
    for name in weights:
        prefix = ""
        for word in name.split("."):
            if word not in _PREFIXES:
                break
            prefix += f"{word}."
            found.add(prefix)
    return sorted(found)  # of equals the first is taken, and by every process the same


def _fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], inner: str, outer: str) -> dict[str, str]:
    """Return which of the weights fits which tensor, where those begin with ``outer`` and these with ``inner``."""
    found = {name: outer + name.removeprefix(inner) for name in own if name.startswith(inner)}
    return {name: source for name, source in found.items() if _fits(own[name], weights.get(source))}


def _fits(own: Tensor, other: Tensor | None) -> bool:
    return other is not None and own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
