"""Whether a robust accuracy can be trusted: the signs that an attack failed rather than the network withstood it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Level = Literal["fine", "suspect", "fail"]
_LEVELS: tuple[Level, ...] = ("fine", "suspect", "fail")
_RESULTS: Mapping[Level, Literal["pass", "suspect", "fail"]] = {"fine": "pass", "suspect": "suspect", "fail": "fail"}

MISSED = 0.01
"""Share of all examples that an attack without gradients may add; the reference AutoAttack warns beyond it."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One thing that was looked at: how bad it is, the ``finding`` in one sentence, and the figures it rests on."""

    name: str
    level: Level
    finding: str
    figures: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values; a figure that is not finite is None."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {"name": self.name, "level": self.level, "finding": self.finding, "figures": figures}


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The verdict on an evaluation itself: as bad as its worst sign."""

    signs: tuple[Sign, ...]

    def __post_init__(self) -> None:
        if not self.signs:
            raise ValueError("a verdict without any sign says nothing")

    @property
    def result(self) -> Literal["pass", "suspect", "fail"]:
        """What the worst sign comes to."""
        return _RESULTS[max((sign.level for sign in self.signs), key=_LEVELS.index)]

    def sentence(self) -> str:
        """Return the verdict in words, with the findings of the signs that are not fine, the worst first."""
        count = len(self.signs)
        if self.result == "pass":
            return f"The robust accuracy can be trusted as far as {count} check{'s' * (count > 1)} can tell."
        worse = [sign for level in ("fail", "suspect") for sign in self.signs if sign.level == level]
        verdict = "cannot be trusted" if self.result == "fail" else "is to be doubted"
        return f"The robust accuracy {verdict}: {'; '.join(sign.finding.rstrip('.') for sign in worse)}."

    def plain(self) -> dict[str, Any]:
        """Return the result, the sentence and the signs as JSON values."""
        return {"result": self.result, "sentence": self.sentence(), "signs": [sign.plain() for sign in self.signs]}


def from_attacks(
    *, of: int, clean: int, white_box: Tensor | None, black_box: Tensor | None, transfer: Tensor | None
) -> list[Sign]:
    """Return what the attacks' own results say about each other.

    Each mask, bool ``[of]`` over all examples or ``[clean]`` over the correctly classified ones, in one order, tells
    which examples a family broke: ``white_box`` by gradients of the network itself, ``black_box`` without gradients,
    ``transfer`` by examples made on another network. None where a family was not run. Whoever knows the gradients
    knows more, so another family that breaks more than 1 % of all examples which white-box attacks did not, or more
    than they do in total, shows that their gradients misled them (Athalye et al. 2018, section 3.1; Carlini et al.
    2019, section 5.8). Where a family was run only on what the others had left, the same holds with more right.
    Raises ``ValueError`` where the masks do not fit the numbers.
    """
    families = {"white-box": white_box, "black-box": black_box, "transfer": transfer}
    masks = {name: mask.detach().cpu().bool() for name, mask in families.items() if mask is not None}
    lengths = {len(mask) for mask in masks.values()}
    if not 0 <= clean <= of or len(lengths) > 1 or not lengths <= {of, clean}:
        raise ValueError(f"masks of lengths {sorted(lengths)} do not fit {clean} correct of {of} examples")
    for name, mask in masks.items():
        if int(mask.sum()) > clean:
            raise ValueError(f"{name} attacks broke {int(mask.sum())} examples, but only {clean} were correct")
    others = [name for name in ("black-box", "transfer") if name in masks]
    if "white-box" not in masks:
        return [_without_gradients(others)] if others else []
    return [_against_white_box(name, masks[name], masks["white-box"], of) for name in others]


def _without_gradients(families: Sequence[str]) -> Sign:
    return Sign(
        name="white-box",
        level="suspect",
        finding=f"only {' and '.join(families)} attacks were run; without gradients of the network an attack is weak",
        figures={},
    )


def _against_white_box(name: str, mask: Tensor, white_box: Tensor, of: int) -> Sign:
    only, total, most = int((mask & ~white_box).sum()), int(mask.sum()), int(white_box.sum())
    missed, beaten = only > MISSED * of, total > most
    finding = f"{name} attacks broke {only} of {of} examples that white-box attacks did not"
    if beaten:
        finding += f", and {total} in total against {most}"
    return Sign(
        name=name,
        level="suspect" if missed or beaten else "fine",
        finding=finding,
        figures={"of": of, "only": only, "total": total, "white_box": most},
    )
