"""What the brackets of many pairs of predictions add up to: attacked from below, proven from above."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overproof.certification.cascade import FALSIFIED, PROBLEMS, VERDICTS, VERIFIED, not_afforded
from overproof.certification.pair import KINDS, PAIR_STAGES, SIDES
from overproof.certification.pair_attack import GAMMAS
from overproof.errors import InputError
from overproof.evaluation.state import ExampleResults
from overproof.statistics import Proportion


@dataclass(frozen=True, eq=False)
class GapBounds(ExampleResults):
    """What a comparison of two networks adds up to (see ``compare_block``).

    Raises ``InputError`` where the teacher is right about no image.
    """

    def __post_init__(self) -> None:
        if not self.state["correct"].any():
            raise InputError(
                f"the teacher is right about none of {len(self.state['correct'])} images, so there is nothing to "
                f"imitate"
            )

    def gap(self, kind: str) -> Tensor:
        """Return the larger of both sides, ``[N]`` in [0, 1]; ``kind`` is ``attacked``, ``separate``, ..."""
        return torch.maximum(*(self.state[f"{side}_{kind}"] for side in SIDES))

    def plain(self, gammas: Sequence[float] = GAMMAS, budget: float = 0.0) -> dict[str, Any]:
        """Return the figures as JSON values, over the examples that the teacher classifies correctly.

        ``gap``, ``under`` and ``over`` are means, attacked (lower bounds) and proven (upper bounds) in three forms:
        each network apart, both jointly, and the best, splitting included. Shares are counted twice: ``proven``, and
        ``standing``, not refuted by the attack; the true one lies between. ``not_afforded`` are sentences on what there
        was no time for within the ``budget``. Raises ``InputError`` for a gamma outside
        [0, 1].
        """
        if any(not 0 <= gamma <= 1 for gamma in gammas):
            raise InputError(f"a gamma is a difference of confidences, in [0, 1], got {list(gammas)}")
        where = self.state["correct"]
        agreement, seconds = self.state["agreement"][where], float(self.state["cost"].sum())
        proven, unrefuted = agreement == VERIFIED, agreement != FALSIFIED
        lower, upper = self.gap("attacked")[where], self.gap("proven")[where]

        def counted(claim: str, sure: Tensor, possible: Tensor) -> dict[str, Any]:
            sides = {"proven": sure, "standing": possible}
            return {
                word: Proportion(
                    claim=f"{claim}: {word}", passed=int(passed.sum()), of=len(passed), seconds=seconds
                ).plain()
                for word, passed in sides.items()
            }

        return {
            "examples": int(where.sum()),
            "of": len(where),
            "gap": {kind: float(self.gap(kind)[where].double().mean()) for kind in KINDS},
            **{
                side: {kind: float(self.state[f"{side}_{kind}"][where].double().mean()) for kind in KINDS}
                for side in SIDES
            },
            "agreement": counted("same class in the whole region", proven, unrefuted),
            "curve": [
                {"gamma": gamma}
                | counted(
                    f"same class and a gap of at most {gamma:g}",
                    proven & (upper <= gamma),
                    unrefuted & (lower <= gamma),
                )
                for gamma in sorted(set(gammas))
            ],
            "not_afforded": [f"of the pair, {one}" for one in not_afforded(PAIR_STAGES, self.state, budget)],
            "errors": int((self.state["problem"] > 0).sum()),
            "seconds": round(seconds, 3),
        }

    def columns(self) -> dict[str, list[Any]]:
        """Return the sides' bounds, whether both agree, the time and the problem of each example."""
        bounds = {f"{side}_{kind}": self.state[f"{side}_{kind}"].tolist() for side in SIDES for kind in KINDS}
        return bounds | {
            "agreement": [VERDICTS[code] for code in self.state["agreement"].tolist()],
            "seconds": [round(value, 6) for value in self.state["cost"].tolist()],
            "problem": [PROBLEMS[code] for code in self.state["problem"].tolist()],
        }

    def where_correct(self) -> list[dict[str, Any] | None]:
        """Return one record per example, None where the teacher is wrong."""
        right = self.state["correct"].tolist()
        return [one if counts else None for one, counts in zip(self.records(), right, strict=True)]
