"""What a query asks of a network, and what is answered."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Decision = Literal["sat", "unsat", "unknown"]


@dataclass(frozen=True, eq=False)
class Case:
    """What counts as a counter-example: an input in the box with ``weight @ outputs + bias >= 0`` in every row.

    ``lower`` and ``upper`` are float64 of the input's shape, without a batch; ``weight`` is float64 ``[R, K]`` over the
    outputs, ``bias`` ``[R]``. A query has one where any of several cases will do.
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor
    bias: Tensor

    def score(self, outputs: Tensor) -> Tensor:
        """Return by how much the worst row holds of outputs ``[K]``, float64; 0 where there are no rows."""
        rows = self.weight @ outputs.double() + self.bias
        return rows.amin() if len(rows) else 0 * outputs.double().sum()


@dataclass(frozen=True, eq=False)
class Answer:
    """The decision; a ``sat`` one with its input, float32 of the input's shape, and the number of the case it meets.

    ``parts`` is how many parts of the boxes were bounded.
    """

    decision: Decision
    witness: Tensor | None = None
    case: int | None = None
    parts: int = 0
