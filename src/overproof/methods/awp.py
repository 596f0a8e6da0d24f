"""AWP: descend the loss at the worst weights near the present ones; wraps another method."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from overproof.methods.method import Method, Step, Terms
from overproof.methods.pgd_at import PGDAT
from overproof.methods.witness import recorded, search_of
from overproof.methods.wrapping import WrappingMethod


@dataclass(frozen=True, kw_only=True)
class AWP(WrappingMethod):
    """Adversarial Weight Perturbation (Wu et al., NeurIPS 2020) around any method of one update per batch.

    Every weight tensor with more than one dimension is moved by ``gamma ||w||`` along its gradient of the base's loss;
    the loss is descended there and the displacement taken back. From the share ``start`` of the run on. The search runs
    once (twice where the base itself wraps another method); the base's loss is computed twice. A search in train mode
    moves no BatchNorm statistics here: only the pass that is descended does.
    Official code: the direction is one SGD step of a proxy network, which is the gradient's direction; as here.
    """

    kind: Literal["awp"] = "awp"
    base: Method = field(default_factory=PGDAT)
    gamma: float = 0.005
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.base.updates != 1:
            raise ValueError(f"awp needs a base of one update per batch; {self.base.kind!r} takes {self.base.updates}")
        if self.gamma < 0:
            raise ValueError(f"gamma is a share of a weight's length and cannot be negative, got {self.gamma}")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is a share of the run, in [0, 1], got {self.start}")

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the base's terms, at the perturbed weights."""
        if not self.gamma or step.progress < self.start:
            yield from self.base.losses(step)
            return
        searched: list[Tensor] = []
        searching = search_of(self.base) is not None
        weights: list[Tensor] = [
            value for value in step.student.parameters() if value.dim() > 1 and value.requires_grad
        ]
        pushes = self._pushes(recorded(self.base, searched) if searching else self.base, step, weights)
        before = _pushed(weights, pushes)
        try:
            yield from (recorded(self.base, searched, repeat=True) if searching else self.base).losses(step)
        finally:
            _taken_back(weights, pushes, before)

    def _pushes(self, base: Method, step: Step, weights: list[Tensor]) -> list[Tensor]:
        """Return every weight's displacement; the rehearsal leaves the method's memory and BatchNorm as they were."""
        networks = (step.student, *step.auxiliary_models.values())
        buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
        rehearsal = base.losses(replace(step, state=dict(step.state)))
        total = torch.stack(list(next(rehearsal).values())).sum()
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        rehearsal.close()  # type: ignore[attr-defined]
        for buffer, value in buffers:
            buffer.copy_(value)
        pooled = [None if gradient is None else step.part.mean(gradient) for gradient in gradients]
        return [
            torch.zeros_like(weight)
            if gradient is None
            else gradient * (self.gamma * weight.detach().norm() / (gradient.norm() + 1e-20))
            for weight, gradient in zip(weights, pooled, strict=True)
        ]


# In place, but for the gradients, which weights may share: of a small batch, such passes are a large part of a step.


@torch.no_grad()
def _pushed(weights: list[Tensor], pushes: list[Tensor]) -> list[Tensor]:
    """Displace the weights; return what they were."""
    before = []
    for weight, push in zip(weights, pushes, strict=True):
        before.append(weight.clone())
        weight.add_(push)
    torch.clear_autocast_cache()  # it holds low-precision copies of what was there
    return before


@torch.no_grad()
def _taken_back(weights: list[Tensor], pushes: list[Tensor], before: list[Tensor]) -> None:
    """Take back the displacement alone, to the bit: what the optimiser did at the displaced weights is kept.

    The pushes are used up.
    """
    for weight, push, old in zip(weights, pushes, before, strict=True):
        weight.sub_(push.add_(old)).add_(old)
    torch.clear_autocast_cache()
