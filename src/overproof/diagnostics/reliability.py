"""Whether a robust accuracy can be trusted: the checks that an attack failed rather than the network withstood it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from overproof.evaluation.check import Check, Level

_LEVELS: tuple[Level, ...] = ("fine", "suspect", "fail")
_RESULTS: Mapping[Level, Literal["pass", "suspect", "fail"]] = {"fine": "pass", "suspect": "suspect", "fail": "fail"}

MISSED = 0.01
"""Share of all examples that an attack without gradients may add; the reference AutoAttack warns beyond it."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The verdict on an evaluation itself: as bad as its worst check."""

    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if not self.checks:
            raise ValueError("a verdict without any check says nothing")

    @property
    def result(self) -> Literal["pass", "suspect", "fail"]:
        """What the worst check comes to."""
        return _RESULTS[max((check.level for check in self.checks), key=_LEVELS.index)]

    def sentence(self) -> str:
        """Return the verdict in words, with the findings of the checks that are not fine, the worst first."""
        count = len(self.checks)
        if self.result == "pass":
            return f"The robust accuracy can be trusted as far as {count} check{'s' * (count > 1)} can tell."
        worse = [check for level in ("fail", "suspect") for check in self.checks if check.level == level]
        verdict = "cannot be trusted" if self.result == "fail" else "is to be doubted"
        return f"The robust accuracy {verdict}: {'; '.join(check.finding.rstrip('.') for check in worse)}."

    def plain(self) -> dict[str, Any]:
        """Return the result, the sentence and the checks as JSON values."""
        return {"result": self.result, "sentence": self.sentence(), "signs": [check.plain() for check in self.checks]}


def from_attacks(
    *, of: int, clean: int, white_box: Tensor | None, black_box: Tensor | None, transfer: Tensor | None
) -> list[Check]:
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


def _without_gradients(families: Sequence[str]) -> Check:
    return Check(
        name="white-box",
        level="suspect",
        finding=f"only {' and '.join(families)} attacks were run; without gradients of the network an attack is weak",
        figures={},
    )


def _against_white_box(name: str, mask: Tensor, white_box: Tensor, of: int) -> Check:
    only, total, most = int((mask & ~white_box).sum()), int(mask.sum()), int(white_box.sum())
    missed, beaten = only > MISSED * of, total > most
    finding = f"{name} attacks broke {only} of {of} examples that white-box attacks did not"
    if beaten:
        finding += f", and {total} in total against {most}"
    return Check(
        name=name,
        level="suspect" if missed or beaten else "fine",
        finding=finding,
        figures={"of": of, "only": only, "total": total, "white_box": most},
    )
