"""An attack that draws corners of the ball, and a suite that begins with it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from overproof.attacks import PGD, AttackSpec, BaseAttack, Length, NormField, Suite, Threat
from overproof.models import in_mode


@dataclass(frozen=True, kw_only=True)
class Corners(BaseAttack):
    """The worst of ``queries`` random corners of the linf ball, the image itself counted; asks for no gradient."""

    kind: Literal["corners"] = "corners"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    queries: int = 20

    losses: ClassVar = ("margin", "cross_entropy", "dlr")
    needs: ClassVar = "scores"
    norms: ClassVar = ("linf",)
    needs_goal: ClassVar = False  # any score of images will do

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}")

    def search(self, model: nn.Module, x: Tensor, objective: Any) -> Tensor:
        """Return images like ``x``, inside the ball and inside [0, 1]."""
        with in_mode(model, training=False), torch.no_grad():
            worst, score = x.detach().clone(), objective(x)
            for _ in range(self.queries - 1):
                corner = (x + self.eps * (2 * torch.randint_like(x, 2) - 1)).clamp(0, 1)
                found = objective(corner)
                better = found > score
                worst[better], score[better] = corner[better], found[better]
        return worst


def bare_hands(threat: Threat) -> Suite:
    """Return 100 random corners, then ten steps of PGD on those that are left."""
    corners = AttackSpec(name="corners-100", attack=Corners(queries=100, eps=threat.eps), loss="margin")
    return Suite(name="bare-hands", survivors=True, attacks=(corners, AttackSpec(name="pgd-10", attack=PGD(steps=10))))
