"""What a step of a network gives, and where the images of a batch lie in it.

Mostly a dimension of torch's tensor is the batch. Where a network cuts each image into windows, or attention into
heads, and carries them as if they were images, a dimension is the batch and its parts, the images one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.bounds.operators import Operator, Shape


@dataclass(frozen=True)
class Layer:
    """A node, and which dimension of torch's tensor is the batch.

    With ``parts`` that dimension is the batch times so many parts of an image, and the node has a dimension of them.
    """

    node: int
    batch: int
    parts: int | None = None

    def one(self, shape: Sequence[int]) -> Shape:
        """Return the shape for one image of a tensor for a batch of two that lies as this layer does."""
        own = () if self.parts is None else (self.parts,)
        return (*shape[: self.batch], *own, *shape[self.batch + 1 :])

    def at(self, node: int) -> "Layer":
        """Return another node whose batch lies likewise."""
        return Layer(node, self.batch, self.parts)

    def own(self, dim: int, rank: int) -> int:
        """Return a dimension of torch's tensor, counted from its start, as one of the node, from the end."""
        return dim - rank + (1 if dim < self.batch and self.parts is None else 0)

    def like(self, other: "Layer") -> bool:
        """Whether the batch lies likewise in both."""
        return (self.batch, self.parts) == (other.batch, other.parts)


Operand = Layer | Tensor
Made = Sequence[Operator] | Layer | tuple[Layer | None, ...]
"""Operators one after another, none for the identity; or a layer that is in the draft already, or several."""


def halves(value: Tensor, batch: int, parts: int | None) -> tuple[Tensor, Tensor] | None:
    """Return what a tensor for a batch of two has for each image, None where its batch does not lie so."""
    if batch >= value.dim() or value.shape[batch] != 2 * (parts or 1):
        return None
    one, other = value.unbind(batch) if parts is None else torch.split(value, parts, batch)
    return one, other


def alike(value: Tensor, batch: int, parts: int | None = None) -> Tensor | None:
    """Return the part of one image of a constant for a batch of two, None where the two have different ones."""
    both = halves(value, batch, parts)
    return both[0] if both is not None and torch.equal(*both) else None
