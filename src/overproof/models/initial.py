"""Weights to begin with: what of another network's tensors fits a student, by name and shape."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overproof.errors import InputError

_PREFIXES = ("module", "model", "network", "backbone", "student", "net", "encoder")
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
        said += f"; made anew: {_some(self.made)}" if self.made else ""
        return said + (f"; left out: {_some(self.left)}" if self.left else "")


def take_over(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> Taken:
    """Copy into a network what fits it of another one's tensors, in place.

    Names match but for what all of them begin with (``module.``, ``backbone.`` and the like); shapes match exactly.
    Raises ``InputError`` where no weight matrix fits.
    """
    own = network.state_dict()
    best = max((_without(weights, prefix) for prefix in _prefixes(weights)), key=lambda found: _fitting(own, found))
    used = tuple(name for name in own if _fits(own[name], best.get(name)))
    if not any(own[name].dim() > 1 for name in used):
        raise InputError(
            f"{where}: none of its weights fits the student; it holds {_some(tuple(weights))}, the student "
            f"{_some(tuple(own))}"
        )
    with torch.no_grad():
        for name in used:
            own[name].copy_(best[name])
    return Taken(
        used=used,
        made=tuple(name for name in own if name not in used),
        left=tuple(name for name in best if name not in own),
    )


def _prefixes(weights: Mapping[str, Tensor]) -> set[str]:
    """Return the beginnings that may have to go: nothing, and every chain of customary words that names begin with."""
    found = {""}
    for name in weights:
        prefix = ""
        for word in name.split("."):
            if word not in _PREFIXES:
                break
            prefix += f"{word}."
            found.add(prefix)
    return found


def _without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _fitting(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int:
    return sum(_fits(value, found.get(name)) for name, value in own.items())


def _fits(own: Tensor, other: Tensor | None) -> bool:
    return other is not None and own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
