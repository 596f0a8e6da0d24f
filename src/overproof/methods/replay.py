"""Free replay: one backward pass moves the weights and the perturbation (Shafahi et al. 2019).

The perturbation is a leaf added to the images. The caller's backward fills its ``grad``, along which the method
then moves it.
"""

import torch
from torch import Tensor

from overproof.attacks.ball import Threat, ball
from overproof.data.images import Batch
from overproof.methods.method import Step


def no_perturbation(like: Batch) -> dict[str, Tensor]:
    """Return the memory of a replay at the start of a run: a perturbation of zero, ``delta`` ``[N, C, H, W]``."""
    return {"delta": torch.zeros_like(like.x)}


def perturbation(step: Step) -> Tensor:
    """Return the rows of ``delta`` in use as a leaf that collects a gradient; a smaller batch uses the first rows."""
    return step.state["delta"][: len(step.x)].clone().requires_grad_()


def move_perturbation(step: Step, rows: Tensor, gradient: Tensor, threat: Threat) -> None:
    """Move the rows by eps up their gradient, back into the ball and [0, 1] around ``step.x``, and remember them."""
    area = ball(threat.norm, threat.eps)
    moved = rows.detach() + threat.eps * area.steepest(gradient)
    inside = area.project(step.x + moved, step.x) - step.x
    step.state["delta"] = torch.cat([inside, step.state["delta"][len(step.x) :]])


def check_replays(replays: int) -> None:
    """Raise ``ValueError`` unless every batch is used at least once."""
    if replays < 1:
        raise ValueError(f"replays must be at least 1, got {replays}")
