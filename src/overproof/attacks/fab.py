"""FAB: walks along the decision boundary next to the clean image, in search of the smallest change that breaks."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import Ball, ball
from overproof.attacks.base import BaseAttack
from overproof.attacks.objectives import Ascent, Misclassification
from overproof.attacks.radius import Length, Norm, NormField
from overproof.errors import InputError
from overproof.models.mode import in_mode

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
_SHORTEST = 1e-8  # the length a step counts at least, so that two steps of none mix


@dataclass(frozen=True, kw_only=True)
class FAB(BaseAttack):
    """The fast adaptive boundary attack (Croce and Hein 2020, "Minimally distorted adversarial examples", algorithm 1).

    A step takes the network as linear where the example stands, z_t - z_y = 0 as a hyperplane. It goes ``overshoot``
    (eta) times the shortest way there, mixed with the same from the clean image, whose share is at most ``bias``
    (alpha_max) and the larger the further the example has strayed. A misclassified example then keeps ``backstep``
    (beta) of its perturbation. A goal with a target has one boundary; without one, the nearest of all linearised
    boundaries counts at each step.

    It looks for the smallest perturbation and needs eps only to stop: an example is done with its first point within
    ``eps`` that is misclassified (the official code goes on and compares lengths in the end). There are no restarts and
    nothing is drawn. Without a judge in the goal nothing is ever misclassified, and nothing found. Cost per step of
    each example that is not done: one forward and backward pass, without a target K - 1; and a forward pass where it
    stands outside the ball, to see whether it must go back.
    """

    kind: Literal["fab"] = "fab"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    steps: int = 100
    bias: float = 0.1
    overshoot: float = 1.05
    backstep: float = 0.9

    transfers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.bias <= 1:
            raise InputError(f"bias is a share, in [0, 1], got {self.bias}")
        if not self.overshoot >= 1:
            raise InputError(f"overshoot must be at least 1 to reach the boundary, got {self.overshoot}")
        if not 0 < self.backstep < 1:
            raise InputError(f"backstep is a share between 0 and 1, got {self.backstep}")

    @override
    def search(self, model: nn.Module, x: Tensor, goal: Misclassification) -> Tensor:
        """Return images like ``x``, detached: misclassified, within eps and [0, 1], where that was found, else ``x``.

        Raises ``InputError`` where there is no target and the network has only one class.
        """
        with in_mode(model, training=False):
            return self._walk(x.detach(), goal.with_loss("margin"))

    def _walk(self, x: Tensor, goal: Misclassification) -> Tensor:
        result = x.clone()
        if not len(x):
            return result
        area, targets = ball(self.norm, self.eps), _targets(x, goal)
        row, clean, point = torch.arange(len(x), device=x.device), x, x
        for _ in range(self.steps):
            point = self._back(area, clean, point, goal)
            seen = goal.towards(targets[0]).unjudged().take_gradient(point)
            done = goal.confirmed(point, seen.misclassified & _inside(area, clean, point))
            result[row[done]] = point[done]
            left = (~done).nonzero().flatten()
            if not len(left):
                return result
            goal, targets, row, clean, point = goal.at(left), targets[:, left], row[left], clean[left], point[left]
            seen = Ascent(*(part[left] for part in seen))
            for target in targets[1:]:
                seen = self._nearer(seen, goal.towards(target).unjudged().take_gradient(point))
            point = self._step(area, clean, point, seen)
        near = _inside(area, clean, point).nonzero().flatten()
        if len(near):
            _, misclassified = goal.at(near).assess(point[near])
            result[row[near[misclassified]]] = point[near[misclassified]]
        return result

    def _back(self, area: Ball, clean: Tensor, point: Tensor, goal: Misclassification) -> Tensor:
        """Return the points, those misclassified outside the ball moved back towards the clean image.

        Only who is outside is asked: inside, the pass that shows where the boundary is tells who is misclassified, too.
        """
        far = (~_inside(area, clean, point)).nonzero().flatten()
        if not len(far):
            return point
        _, misclassified = goal.at(far).unjudged().assess(point[far])
        far = far[misclassified]
        return point.index_copy(0, far, torch.lerp(clean[far], point[far], self.backstep))

    def _nearer(self, one: Ascent, other: Ascent) -> Ascent:
        """Return each example's view of the nearer boundary; as in the paper, the distance disregards the box."""
        size, tiny = ball(_DUAL[self.norm], 1.0).size, torch.finfo(one.score.dtype).tiny
        here, there = (view.score.abs() / size(view.gradient).clamp_min(tiny) for view in (one, other))
        closer = (there < here).nonzero().flatten()
        return Ascent(*(old.index_copy(0, closer, new[closer]) for old, new in zip(one, other, strict=True)))

    def _step(self, area: Ball, clean: Tensor, point: Tensor, seen: Ascent) -> Tensor:
        """Return the next points: beyond the boundary the shortest ways from here and from the clean image, mixed."""
        normal = seen.gradient
        strayed = (normal * (point - clean)).flatten(1).sum(dim=1)
        from_point = area.shortest(point, normal, -seen.score)
        from_clean = area.shortest(clean, normal, strayed - seen.score)
        here, there = (area.size(step).clamp_min(_SHORTEST) for step in (from_point, from_clean))
        share = (here / (here + there)).clamp(max=self.bias)[:, None]
        ends = (point + self.overshoot * from_point).flatten(1), (clean + self.overshoot * from_clean).flatten(1)
        return torch.lerp(*ends, share).clamp_(0, 1).view_as(point)


def _targets(x: Tensor, goal: Misclassification) -> Tensor:
    """Return the classes whose boundaries count, int64 ``[M, N]``: the goal's target, or every class but the label."""
    if goal.target is not None:
        return goal.target[None]
    first = torch.zeros(1, dtype=torch.int64, device=x.device)
    classes = goal.at(first).logits(x[first]).shape[1]
    if classes < 2:
        raise InputError("FAB needs a network of at least two classes: with one there is no boundary")
    return (goal.y + torch.arange(1, classes, device=x.device)[:, None]) % classes


def _inside(area: Ball, clean: Tensor, point: Tensor) -> Tensor:
    # No allowance for rounding: what is returned is, bit for bit, the point that was judged.
    return area.size(point - clean) <= area.eps
